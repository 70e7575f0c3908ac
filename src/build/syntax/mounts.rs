//! What `RUN --mount=…` says, in the comma-separated form that Docker has: `type=cache,target=/x,ro`.
//!
//! A field in double quotes may have commas in it. What has no meaning for a type is refused where BuildKit
//! refuses it, and passed over where it does that.

use super::values;
use super::{Cache, Mount, Secret, Sharing};

const TYPES: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];
const KEYS: [&str; 18] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "required",
    "id",
    "sharing",
    "size",
    "mode",
    "uid",
    "gid",
];

/// What is wrong with a mount: the field that it is about, why, and a hint.
#[derive(Debug, PartialEq, Eq)]
pub struct Misfit {
    /// As it is written.
    pub field: String,
    /// Why.
    pub why: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Misfit {
    fn new(field: &str, why: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            why: why.into(),
            hint: None,
        }
    }

    fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Puts variables into a value.
pub type Expand<'a> = &'a dyn Fn(&str) -> Result<String, String>;

/// The options of one mount, before anyone asks whether they fit together.
#[derive(Default)]
struct Options {
    kind: String,
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: Option<bool>,
    required: bool,
    id: Option<String>,
    sharing: Option<Sharing>,
    size: Option<u64>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    env: Option<String>,
}

/// Reads a mount, its variables put in. Targets are as they are written.
///
/// # Errors
/// The field that is wrong, and why.
pub fn read(text: &str, expand: Expand) -> Result<Mount, Misfit> {
    let mut options = Options {
        kind: "bind".to_owned(),
        ..Options::default()
    };
    for field in fields(text)? {
        options.take(&field, expand)?;
    }
    options.mount(text)
}

/// The stage or image of `from`, which has no variables.
///
/// # Errors
/// The field, where it has some.
pub fn from(text: &str) -> Result<Option<String>, Misfit> {
    let mut found = None;
    for field in fields(text)? {
        let Some((key, value)) = field.split_once('=') else {
            continue;
        };
        if !key.eq_ignore_ascii_case("from") {
            continue;
        }
        if value.trim_end_matches('$').contains('$') {
            return Err(Misfit::new(&field, "from takes no variables")
                .hinted("name a stage: FROM ${IMAGE} AS stage, and from=stage"));
        }
        found = (!value.is_empty()).then(|| value.to_owned());
    }
    Ok(found)
}

/// Splits at commas outside double quotes, of which two in quotes are one.
fn fields(text: &str) -> Result<Vec<String>, Misfit> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            char => field.push(char),
        }
    }
    if quoted {
        return Err(Misfit::new(text, "a quote is not closed"));
    }
    fields.push(field);
    Ok(fields)
}

impl Options {
    fn take(&mut self, field: &str, expand: Expand) -> Result<(), Misfit> {
        let wrong = |why: String| Misfit::new(field, why);
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        let Some(value) = value else {
            match key.as_str() {
                "readonly" | "ro" => self.read_only = Some(true),
                "readwrite" | "rw" => self.read_only = Some(false),
                "required" => self.require(field, true)?,
                key if KEYS.contains(&key) || key == "env" => return Err(wrong(format!("{key} wants a value"))),
                _ => return Err(unknown(field, &key)),
            }
            return Ok(());
        };
        let value = expand(value).map_err(wrong)?;
        match key.as_str() {
            "type" => self.set_type(field, &value)?,
            "from" => self.from = Some(value).filter(|from| !from.is_empty()),
            "source" | "src" => self.source = Some(value),
            "target" | "dst" | "destination" => self.target = Some(value),
            "readonly" | "ro" => self.read_only = Some(values::truth(&value).map_err(wrong)?),
            "readwrite" | "rw" => self.read_only = Some(!values::truth(&value).map_err(wrong)?),
            "required" => {
                let required = values::truth(&value).map_err(wrong)?;
                self.require(field, required)?;
            }
            "id" => self.id = Some(value),
            "sharing" => self.sharing = Some(sharing(field, &value)?),
            "size" => self.size = Some(values::size(&value).map_err(wrong)?),
            "mode" => self.mode = Some(values::mode(&value).map_err(wrong)?),
            "uid" => self.uid = Some(values::number(&value).map_err(wrong)?),
            "gid" => self.gid = Some(values::number(&value).map_err(wrong)?),
            "env" => self.env = Some(value),
            _ => return Err(unknown(field, &key)),
        }
        Ok(())
    }

    fn set_type(&mut self, field: &str, value: &str) -> Result<(), Misfit> {
        let kind = value.to_ascii_lowercase();
        if !TYPES.contains(&kind.as_str()) {
            let wrong = Misfit::new(field, format!("unknown type of mount {value}"));
            return Err(match values::nearest(value, &TYPES) {
                Some(near) => wrong.hinted(format!("did you mean type={near}?")),
                None => wrong.hinted("there are bind, cache, tmpfs and secret"),
            });
        }
        if kind == "ssh" {
            return Err(Misfit::new(field, "mounts of an ssh agent are not there")
                .hinted("give a key as a secret: type=secret,id=NAME"));
        }
        self.kind = kind;
        Ok(())
    }

    fn require(&mut self, field: &str, required: bool) -> Result<(), Misfit> {
        if self.kind != "secret" {
            return Err(
                Misfit::new(field, format!("required is no option of type {}", self.kind))
                    .hinted("it is one of type=secret, which stands before it"),
            );
        }
        self.required = required;
        Ok(())
    }

    /// The options that a type must not have.
    fn refuse(&self, text: &str) -> Result<(), Misfit> {
        let kind = self.kind.as_str();
        let is_file = kind == "secret" || kind == "cache";
        let wrong = [
            ("mode", self.mode.is_some() && !is_file),
            ("uid", self.uid.is_some() && !is_file),
            ("gid", self.gid.is_some() && !is_file),
            ("size", self.size.is_some() && kind != "tmpfs"),
            ("sharing", self.sharing.is_some() && kind != "cache"),
            ("env", self.env.is_some() && kind != "secret"),
            ("from", self.from.is_some() && kind == "secret"),
        ];
        match wrong.into_iter().find(|(_, wrong)| *wrong) {
            Some((key, _)) => Err(Misfit::new(text, format!("{key} is no option of type {kind}"))),
            None => Ok(()),
        }
    }

    fn mount(self, text: &str) -> Result<Mount, Misfit> {
        self.refuse(text)?;
        let target = self.target.filter(|target| !target.is_empty());
        if self.kind == "secret" {
            return secret(
                text,
                target,
                self.source,
                self.id,
                self.env,
                (self.required, self.mode, self.uid, self.gid),
            );
        }
        let Some(target) = target else {
            return Err(Misfit::new(text, "a mount wants a target").hinted("say where: target=/FOLDER"));
        };
        let source = self.source.unwrap_or_default();
        Ok(match self.kind.as_str() {
            "cache" => Mount::Cache(Cache {
                id: self.id.filter(|id| !id.is_empty()).unwrap_or_else(|| target.clone()),
                target,
                sharing: self.sharing.unwrap_or_default(),
                from: self.from,
                source,
                read_only: self.read_only.unwrap_or(false),
                mode: self.mode.unwrap_or(0o755),
                uid: self.uid.unwrap_or(0),
                gid: self.gid.unwrap_or(0),
            }),
            "tmpfs" => Mount::Tmpfs {
                target,
                size: self.size.filter(|size| *size != 0),
            },
            _ => Mount::Bind {
                target,
                source,
                from: self.from,
                writable: self.read_only == Some(false),
            },
        })
    }
}

/// A secret: the target alone names it by its last part, and without an `env` it is a file in any case.
fn secret(
    text: &str,
    target: Option<String>,
    source: Option<String>,
    id: Option<String>,
    env: Option<String>,
    (required, mode, uid, gid): (bool, Option<u32>, Option<u32>, Option<u32>),
) -> Result<Mount, Misfit> {
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (source, id) = (given(source), given(id));
    if source.is_some() && id.is_some() {
        return Err(Misfit::new(text, "id and source are the same: give one of them"));
    }
    let last = |path: &str| {
        path.trim_end_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let id = source
        .or(id)
        .or_else(|| target.as_deref().map(last))
        .filter(|id| !id.is_empty());
    let Some(id) = id else {
        return Err(Misfit::new(text, "a secret wants an id").hinted("say which: id=NAME"));
    };
    let target = match (target, &env) {
        (None, None) => Some(format!("/run/secrets/{}", last(&id))),
        (target, _) => target,
    };
    Ok(Mount::Secret(Secret {
        // A variable's name is the secret's where `env` has none.
        env: env.map(|env| if env.is_empty() { id.clone() } else { env }),
        id,
        target,
        required,
        mode: mode.unwrap_or(0o400),
        uid: uid.unwrap_or(0),
        gid: gid.unwrap_or(0),
    }))
}

fn sharing(field: &str, value: &str) -> Result<Sharing, Misfit> {
    match value.to_ascii_lowercase().as_str() {
        "shared" => Ok(Sharing::Shared),
        "private" => Ok(Sharing::Private),
        "locked" => Ok(Sharing::Locked),
        _ => Err(Misfit::new(field, format!("unknown sharing {value}")).hinted("it is shared, private or locked")),
    }
}

fn unknown(field: &str, key: &str) -> Misfit {
    let wrong = Misfit::new(field, format!("unknown option {key} of a mount"));
    match values::nearest(key, &KEYS) {
        Some(near) => wrong.hinted(format!("did you mean {near}?")),
        None => wrong.hinted(format!("there are {} and env", KEYS.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(text: &str) -> Result<Mount, Misfit> {
        read(text, &|value| Ok(value.to_owned()))
    }

    #[test]
    fn each_type_has_its_options() {
        let bind = |target: &str, source: &str, from: Option<&str>, writable| Mount::Bind {
            target: target.into(),
            source: source.into(),
            from: from.map(str::to_owned),
            writable,
        };
        assert_eq!(mount("target=/x").unwrap(), bind("/x", "", None, false));
        assert_eq!(
            mount("type=bind,dst=/x,src=a,from=b,rw").unwrap(),
            bind("/x", "a", Some("b"), true)
        );
        assert_eq!(
            mount("type=bind,target=/x,readwrite=false").unwrap(),
            bind("/x", "", None, false)
        );
        assert_eq!(mount("\"target=/x,y\"").unwrap(), bind("/x,y", "", None, false));
        assert_eq!(
            mount("type=TMPFS,target=/t,size=64m").unwrap(),
            Mount::Tmpfs {
                target: "/t".into(),
                size: Some(64 << 20)
            }
        );
        let cache = Cache {
            target: "/c".into(),
            id: "/c".into(),
            sharing: Sharing::Locked,
            from: None,
            source: String::new(),
            read_only: false,
            mode: 0o700,
            uid: 5,
            gid: 0,
        };
        assert_eq!(
            mount("type=cache,target=/c,sharing=locked,mode=0700,uid=5").unwrap(),
            Mount::Cache(cache)
        );
    }

    #[test]
    fn secrets_are_files_or_variables() {
        let secret = |text| match mount(text) {
            Ok(Mount::Secret(secret)) => (secret.id, secret.target, secret.env, secret.required),
            other => panic!("{text}: {other:?}"),
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            secret("type=secret,id=a"),
            ("a".into(), some("/run/secrets/a"), None, false)
        );
        assert_eq!(
            secret("type=secret,target=/x/b,required"),
            ("b".into(), some("/x/b"), None, true)
        );
        assert_eq!(secret("type=secret,id=a,env=V"), ("a".into(), None, some("V"), false));
        assert_eq!(
            secret("type=secret,id=a,env=V,target=/x"),
            ("a".into(), some("/x"), some("V"), false)
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why, hint) in [
            ("type=bnd,target=/x", "unknown type of mount bnd", "type=bind"),
            ("type=ssh", "ssh agent", "secret"),
            ("target=/x,sized=1", "unknown option sized", "size"),
            ("target=/x,nonsense", "unknown option nonsense", "there are"),
            ("type=cache", "wants a target", "target="),
            ("type=cache,target", "target wants a value", ""),
            ("type=cache,target=/x,sharing=never", "unknown sharing never", "locked"),
            ("type=cache,target=/x,size=1m", "size is no option of type cache", ""),
            ("target=/x,required", "required is no option of type bind", "secret"),
            ("target=/x,mode=0700", "mode is no option of type bind", ""),
            ("type=secret", "wants an id", "id="),
            ("type=secret,id=a,source=b", "the same", ""),
            ("type=secret,id=a,from=b", "from is no option", ""),
            ("type=tmpfs,target=/x,size=much", "not a size", ""),
            ("type=cache,target=/x,uid=root", "not a number", ""),
            ("type=cache,target=/x,ro=perhaps", "neither true nor false", ""),
            ("\"target=/x", "not closed", ""),
        ] {
            let misfit = mount(text).unwrap_err();
            let told = misfit.hint.unwrap_or_default();
            assert!(
                misfit.why.contains(why) && told.contains(hint),
                "{text}: {} ({told})",
                misfit.why
            );
        }
        assert!(from("from=$x,target=/y").unwrap_err().why.contains("variables"));
        assert_eq!(from("target=/y,from=b").unwrap().as_deref(), Some("b"));
    }
}
