//! A folder with a Dockerfile, and the store in which it is built.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::{Plywood, busybox_tar};

/// A context beside a store with the image `base`.
#[derive(Debug)]
pub struct Site {
    /// The store.
    pub plywood: Plywood,
    context: PathBuf,
}

impl Site {
    /// An empty context.
    pub fn new(driver: &'static str) -> Self {
        let plywood = Plywood::new(driver);
        let base = plywood.beside("base.tar");
        busybox_tar(&base);
        plywood.ok(["import", base.to_str().expect("UTF-8"), "base"]);
        let context = plywood.beside("context");
        fs::create_dir(&context).expect("a folder");
        Self { plywood, context }
    }

    /// A path in the context.
    pub fn path(&self, name: &str) -> PathBuf {
        self.context.join(name)
    }

    /// Writes a file, mode 0644, and the folders above it.
    pub fn file(&self, name: &str, content: &str) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, content).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a mode");
        self
    }

    /// Writes the Dockerfile.
    pub fn dockerfile(&self, text: &str) -> &Self {
        self.file("Dockerfile", text)
    }

    fn words<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        let context = self.context.to_str().expect("UTF-8");
        [&["build"], args, &[context]].concat()
    }

    /// Builds, wants success, gives the image's id.
    #[track_caller]
    pub fn build(&self, args: &[&str]) -> String {
        self.plywood.ok(self.words(args))
    }

    /// Builds, wants success, gives what is told of it and the id.
    #[track_caller]
    pub fn told(&self, args: &[&str]) -> (String, String) {
        let output = self.plywood.run(self.words(args));
        let told = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(output.status.success(), "{told}");
        (told, String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned())
    }

    /// Builds, wants it to fail, gives what is told of it.
    #[track_caller]
    pub fn fails(&self, args: &[&str]) -> String {
        self.plywood.fails(1, self.words(args))
    }

    /// Builds the text as `image`, and gives what the command prints in it.
    #[track_caller]
    pub fn prints(&self, dockerfile: &str, command: &str) -> String {
        self.dockerfile(dockerfile).build(&["-t", "image"]);
        self.plywood.ok(["run", "--rm", "image", "sh", "-c", command])
    }

    /// What `inspect` says of the image `name`.
    pub fn image(&self, name: &str) -> serde_json::Value {
        self.plywood.json(["inspect", name])[0].clone()
    }
}

/// How many steps a build told as cached.
pub fn cached(told: &str) -> usize {
    told.lines().filter(|line| line.trim() == "cached").count()
}
