//! The command: found in the container's `PATH` by trying it, as execvp(3) does.

use std::ffi::CString;

use nix::errno::Errno;

use super::error::{Error, Result, Stage};

/// The `PATH` of a container whose image says nothing.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Becomes the command; returns only why not.
pub(super) fn execute(args: &[String], env: &[String]) -> Error {
    let Some(name) = args.first() else {
        return Error::new(
            Stage::Request,
            "run nothing: no command was given and the image has none",
        );
    };
    let (args, env) = match (c_strings(args), c_strings(env)) {
        (Ok(args), Ok(env)) => (args, env),
        (Err(error), _) | (_, Err(error)) => return error,
    };
    let path = env
        .iter()
        .find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="))
        .unwrap_or_default();
    // What is found and cannot be executed is the better answer than "not found".
    let mut answer = Errno::ENOENT;
    for candidate in candidates(name.as_bytes(), path) {
        let Ok(candidate) = CString::new(candidate) else {
            continue;
        };
        match nix::unistd::execve(&candidate, &args, &env) {
            Ok(never) => match never {},
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(Errno::EACCES) => answer = Errno::EACCES,
            Err(error) => {
                answer = error;
                break;
            }
        }
    }
    Error::system(Stage::Command, format!("execute {name:?}"), answer)
}

/// Where to look for `name`, in order.
fn candidates(name: &[u8], path: &[u8]) -> Vec<Vec<u8>> {
    if name.is_empty() {
        return Vec::new();
    }
    if name.contains(&b'/') {
        return vec![name.to_vec()];
    }
    path.split(|byte| *byte == b':')
        .map(|folder| match folder {
            b"" => [b"./", name].concat(),
            folder => [folder, b"/", name].concat(),
        })
        .collect()
}

fn c_strings(words: &[String]) -> Result<Vec<CString>> {
    words
        .iter()
        .map(|word| {
            CString::new(word.as_bytes())
                .map_err(|_| Error::new(Stage::Request, format!("pass {word:?} on: it holds a zero byte")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::candidates;

    #[test]
    fn a_name_is_looked_for_in_path_and_a_path_is_not() {
        for (name, path, found) in [
            ("sh", "/usr/bin:/bin", vec!["/usr/bin/sh", "/bin/sh"]),
            ("/bin/sh", "/usr/bin", vec!["/bin/sh"]),
            ("./x", "/usr/bin", vec!["./x"]),
            ("x", "", vec!["./x"]),
            ("", "/bin", vec![]),
        ] {
            let expected: Vec<Vec<u8>> = found.into_iter().map(|path| path.as_bytes().to_vec()).collect();
            assert_eq!(
                candidates(name.as_bytes(), path.as_bytes()),
                expected,
                "{name:?} in {path:?}"
            );
        }
    }
}
