//! JSON from outside, where it can be read in one way only.
//!
//! Of two equal keys serde takes the last and others the first; Go takes
//! `Layers` for `layers`. Who scans an image and who runs it would see two
//! different ones, so a field that comes twice, or is written otherwise than
//! the specification writes it, is refused. A value costs far more memory than
//! its bytes, so values are counted.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Values that a document may have: what 1000 layers with their history need, many times over.
const VALUES_MAX: usize = 100_000;
/// Down to this depth an object's keys are fields, not a user's own words.
const FIELDS_DEPTH: usize = 1;
/// Those among these objects whose keys are a user's own after all.
const OWN_WORDS: [&str; 1] = ["annotations"];

/// Reads a whole document whose objects have these `fields`, and others that plywood does not know.
///
/// # Errors
/// No JSON, too much of it, or a field that some readers would see and others not.
pub(super) fn read(bytes: &[u8], fields: &[&str]) -> serde_json::Result<Value> {
    let left = Cell::new(VALUES_MAX);
    let mut from = serde_json::Deserializer::from_slice(bytes);
    let value = Strict {
        left: &left,
        depth: 0,
        fields: Some(fields),
    }
    .deserialize(&mut from)?;
    from.end()?;
    Ok(value)
}

/// Reads a document that is an object.
///
/// # Errors
/// As for [`read`]; anything but an object.
pub(super) fn read_object(bytes: &[u8], fields: &[&str]) -> serde_json::Result<Map<String, Value>> {
    match read(bytes, fields)? {
        Value::Object(fields) => Ok(fields),
        _ => Err(serde_json::Error::custom("not an object")),
    }
}

#[derive(Clone, Copy)]
struct Strict<'a> {
    left: &'a Cell<usize>,
    /// Objects around this value.
    depth: usize,
    /// The known fields; none where keys are somebody's own words.
    fields: Option<&'a [&'a str]>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        let left = self.left.get().checked_sub(1);
        let left = left.ok_or_else(|| D::Error::custom(format!("more than {VALUES_MAX} values")))?;
        self.left.set(left);
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = from.next_element_seed(self)? {
            list.push(value);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        let mut seen = BTreeSet::new();
        while let Some(key) = from.next_key::<String>()? {
            let known = self.fields.unwrap_or_default();
            if let Some(right) = known
                .iter()
                .find(|field| **field != key && field.eq_ignore_ascii_case(&key))
            {
                return Err(A::Error::custom(format!(
                    "the field {key:?}, which some take for {right:?}"
                )));
            }
            let folded = self.fields.map_or_else(|| key.clone(), |_| key.to_ascii_lowercase());
            if !seen.insert(folded) {
                return Err(A::Error::custom(format!("the field {key:?} twice")));
            }
            let within = Self {
                depth: self.depth + 1,
                fields: self
                    .fields
                    .filter(|_| self.depth < FIELDS_DEPTH && !OWN_WORDS.contains(&key.as_str())),
                ..self
            };
            fields.insert(key, from.next_value_seed(within)?);
        }
        Ok(fields.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u22_a_field_that_could_be_read_otherwise_is_refused() {
        let fields = ["layers", "config", "Cmd"];
        for (bad, why) in [
            (r#"{"layers":[],"layers":[1]}"#, "twice"),
            (r#"{"other":[],"Other":[1]}"#, "twice"),
            (r#"{"layers":[{"digest":"a","digest":"b"}]}"#, "twice"),
            (r#"{"layers":[{"digest":"a","Digest":"b"}]}"#, "twice"),
            (r#"{"config":{"Labels":{"a":"1","a":"2"}}}"#, "twice"),
            (r#"{"a":{"b":{"c":[{"d":1,"d":2}]}}}"#, "twice"),
            (r#"{"Layers":[]}"#, "layers"),
            (r#"{"config":{"cmd":["b"]}}"#, "Cmd"),
        ] {
            let error = read(bad.as_bytes(), &fields).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
        for once in [
            r#"{"config":{"Labels":{"a":"1","A":"2"},"Volumes":{"/Data":{},"/data":{}}}}"#,
            r#"{"annotations":{"a":"1","A":"2"}}"#,
            r#"[{"other":"x"},{"other":"y"}]"#,
        ] {
            assert_eq!(
                read(once.as_bytes(), &fields).unwrap(),
                serde_json::from_str::<Value>(once).unwrap(),
                "{once}"
            );
        }
    }

    #[test]
    fn u23_values_numbers_and_depth_have_limits() {
        let many = format!("[{}0]", r#"{"":0},"#.repeat(VALUES_MAX));
        assert!(read(many.as_bytes(), &[]).unwrap_err().to_string().contains("values"));
        assert!(read("[".repeat(100_000).as_bytes(), &[]).is_err());
        assert!(read(br#"{"a":1e999}"#, &[]).is_err());
        assert!(read(b"{} {}", &[]).is_err());
        assert!(read_object(b"[]", &[]).is_err());
        assert_eq!(
            read(b"[18446744073709551615,-1,0.5,null,true]", &[]).unwrap()[0],
            u64::MAX
        );
    }
}
