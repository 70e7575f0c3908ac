//! Who runs the command: `USER[:GROUP]`, names or numbers, looked up in the
//! image's own `/etc/passwd` and `/etc/group`.
//!
//! The files are the image's word and may say anything: a line that makes no
//! sense is passed over, and a number is a `u32` below 2^31 or no number at
//! all (a bigger one once wrapped to root elsewhere).

use super::error::{Error, Result, Stage};
use super::ids::IdRange;
use super::tree::Tree;

/// Bytes that `/etc/passwd` or `/etc/group` may have.
const FILE_MAX: u64 = 1 << 20;
/// The highest user or group number, as Docker has it.
const NUMBER_MAX: u32 = i32::MAX.unsigned_abs();
/// Supplementary groups of one process, the kernel's `NGROUPS_MAX`.
const GROUPS_MAX: usize = 65536;

/// A user of the container, in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User number.
    pub uid: u32,
    /// Main group.
    pub gid: u32,
    /// Supplementary groups, the main one among them: a set-group-id program changes that one, and must not leave a
    /// group whose members some file refuses (CVE-2022-36109).
    pub groups: Vec<u32>,
    /// Home directory, `/` where nothing says otherwise.
    pub home: String,
}

impl User {
    /// Whether the container has these numbers, where its users are others than the host's.
    pub(super) fn check(&self, ids: Option<IdRange>) -> Result<()> {
        let Some(ids) = ids else { return Ok(()) };
        let mut numbers = [self.uid, self.gid].into_iter().chain(self.groups.iter().copied());
        match numbers.find(|number| ids.host(*number).is_none()) {
            None => Ok(()),
            Some(number) => Err(Error::new(
                Stage::Request,
                format!(
                    "become user or group {number}: with --userns auto their numbers end at {}",
                    ids.count - 1
                ),
            )),
        }
    }

    /// The host's number of it, for one that was checked.
    pub(super) fn host_uid(&self, ids: Option<IdRange>) -> u32 {
        ids.and_then(|ids| ids.host(self.uid)).unwrap_or(self.uid)
    }
}

/// Looks `wanted` up in the image's files.
pub(super) fn look_up(tree: &Tree, wanted: &str) -> Result<User> {
    let passwd = tree.read("etc/passwd", FILE_MAX)?.unwrap_or_default();
    let group = tree.read("etc/group", FILE_MAX)?.unwrap_or_default();
    find(wanted, &passwd, &group)
}

/// Looks `wanted` up in the text of `/etc/passwd` and `/etc/group`.
///
/// # Errors
/// At stage [`Stage::User`], where a name is not there.
pub fn find(wanted: &str, passwd: &[u8], group: &[u8]) -> Result<User> {
    let (wanted_user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (wanted, None),
    };
    let wanted_user = if wanted_user.is_empty() { "0" } else { wanted_user };
    let number = parse_number(wanted_user);
    let accounts = || lines(passwd).filter_map(Account::parse);
    let account = accounts()
        .find(|account| account.name == wanted_user.as_bytes())
        .or_else(|| accounts().find(|account| Some(account.uid) == number));
    let uid = match (&account, number) {
        (Some(account), _) => account.uid,
        (None, Some(number)) => number,
        (None, None) => {
            return Err(Error::new(
                Stage::User,
                format!("find the user {wanted_user:?} in the image's /etc/passwd"),
            ));
        }
    };
    let home = account
        .as_ref()
        .map(|account| account.home)
        .filter(|home| home.starts_with(b"/"))
        .map_or_else(|| "/".into(), |home| String::from_utf8_lossy(home).into_owned());
    let (gid, name) = match wanted_group {
        Some(wanted) => (find_group(wanted, group)?, None),
        None => (
            account.as_ref().map_or(0, |account| account.gid),
            account.as_ref().map(|account| account.name),
        ),
    };
    let others = lines(group)
        .filter_map(Group::parse)
        .filter(|group| group.gid != gid && name.is_some_and(|name| group.has(name)))
        .map(|group| group.gid);
    let groups = std::iter::once(gid).chain(others).take(GROUPS_MAX).collect();
    Ok(User { uid, gid, groups, home })
}

fn find_group(wanted: &str, file: &[u8]) -> Result<u32> {
    let by_name = lines(file)
        .filter_map(Group::parse)
        .find(|group| group.name == wanted.as_bytes())
        .map(|group| group.gid);
    by_name.or_else(|| parse_number(wanted)).ok_or_else(|| {
        Error::new(
            Stage::User,
            format!("find the group {wanted:?} in the image's /etc/group"),
        )
    })
}

/// A line of passwd(5).
struct Account<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

impl<'a> Account<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = number_field(fields.nth(1)?)?;
        let gid = number_field(fields.next()?)?;
        let home = fields.nth(1).unwrap_or_default();
        Some(Self { name, uid, gid, home })
    }
}

/// A line of group(5).
struct Group<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

impl<'a> Group<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = number_field(fields.nth(1)?)?;
        Some(Self {
            name,
            gid,
            members: fields.next().unwrap_or_default(),
        })
    }

    fn has(&self, user: &[u8]) -> bool {
        self.members
            .split(|byte| *byte == b',')
            .any(|member| member.trim_ascii() == user)
    }
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|byte| *byte == b'\n')
}

fn number_field(field: &[u8]) -> Option<u32> {
    parse_number(std::str::from_utf8(field).ok()?)
}

fn parse_number(text: &str) -> Option<u32> {
    // `parse` alone would take "+5".
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse::<u32>()
        .ok()
        .filter(|number| is_plain && *number <= NUMBER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nbroken\nops:x:1000:1001:,,,:/home/ops:/bin/bash\nhuge:x:4294967296:0::/:\n77:x:5:6::/n:\nnohome:x:9:9\n";
    const GROUP: &[u8] = b"root:x:0:\nsudo:x:27:ops,www\nadm:x:4:www, ops\nstaff:x:50:\n\xff:x:z:\n";

    #[test]
    fn users_are_found_by_name_and_number() {
        for (wanted, uid, gid, groups, home) in [
            ("", 0, 0, vec![0], "/root"),
            ("root", 0, 0, vec![0], "/root"),
            ("ops", 1000, 1001, vec![1001, 27, 4], "/home/ops"),
            ("1000", 1000, 1001, vec![1001, 27, 4], "/home/ops"),
            ("ops:", 1000, 1001, vec![1001, 27, 4], "/home/ops"),
            ("ops:staff", 1000, 50, vec![50], "/home/ops"),
            ("ops:7", 1000, 7, vec![7], "/home/ops"),
            ("12345", 12345, 0, vec![0], "/"),
            ("12345:sudo", 12345, 27, vec![27], "/"),
            (":sudo", 0, 27, vec![27], "/root"),
            ("77", 5, 6, vec![6], "/n"),
            ("nohome", 9, 9, vec![9], "/"),
        ] {
            let user = find(wanted, PASSWD, GROUP).unwrap();
            assert_eq!(
                user,
                User {
                    uid,
                    gid,
                    groups,
                    home: home.to_owned()
                },
                "{wanted}"
            );
        }
    }

    #[test]
    fn what_cannot_be_found_is_refused_not_root() {
        for wanted in [
            "nobody",
            "huge",
            "-1",
            "+0",
            "4294967295",
            "4294967296",
            "2147483648",
            "0x0",
            " 0",
            "ops:nogroup",
            "ops:4294967296",
        ] {
            let error = find(wanted, PASSWD, GROUP).unwrap_err();
            assert_eq!(error.exit_code(), 125, "{wanted}: {error}");
        }
    }

    #[test]
    fn an_image_without_files_still_has_numbers() {
        assert_eq!(
            find("", b"", b"").unwrap(),
            User {
                uid: 0,
                gid: 0,
                groups: vec![0],
                home: "/".to_owned()
            }
        );
        assert!(find("ops", b"", b"").is_err());
    }
}
