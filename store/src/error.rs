//! One error type for the store: what was attempted, on which object, and whose fault it is.
//!
//! [`Kind`] is what a caller decides on; the text names the object; the source
//! is the cause. *Corrupt* (the data is wrong) is not *incompatible* (this
//! plywood is too old for it).

use std::path::Path;

/// The store's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault a failure is, and so what a caller may do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The named object is not there.
    NotFound,
    /// The name or key is taken.
    Exists,
    /// Something else needs the object, or a live process holds it.
    InUse,
    /// What was given in cannot be used: a bad name, archive or value.
    Invalid,
    /// Stored or received data is not what its digest or checksum says.
    Corrupt,
    /// Made by a newer plywood, or by another driver.
    Incompatible,
    /// A disk, pool or quota is full.
    NoSpace,
    /// The operating system refused.
    Io,
}

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` whose text names its object.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            source: None,
        }
    }

    /// Shorthand for [`Kind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// Shorthand for [`Kind::Corrupt`].
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, message)
    }

    /// Shorthand for [`Kind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// An operating system error that says what was tried on which path.
    ///
    /// A store error that came through [`std::io::Error`] (as a blob's reader
    /// sends it) keeps its kind and its hint.
    pub fn io(verb: &str, path: impl AsRef<Path>, source: impl Into<std::io::Error>) -> Self {
        use std::io::ErrorKind;
        let source = source.into();
        let ours = source.get_ref().and_then(|inner| inner.downcast_ref::<Self>());
        // By its kind, which it keeps when somebody wraps it; not by the system's number.
        let kind = match (ours, source.kind()) {
            (Some(ours), _) => ours.kind,
            (None, ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Kind::NoSpace,
            _ => Kind::Io,
        };
        Self {
            kind,
            message: format!("cannot {verb} {}", path.as_ref().display()),
            hint: ours.and_then(|ours| ours.hint.clone()),
            source: Some(Box::new(source)),
        }
    }

    /// Adds the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what the user can do next.
    #[must_use]
    pub fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whose fault it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What to do next, where there is something.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// Puts verb and path on an [`std::io::Result`] or rustix result.
pub trait Context<T> {
    /// Names what was tried on which path.
    ///
    /// # Errors
    /// The same failure, as an [`Error`] that names `path`.
    fn context(self, verb: &str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, verb: &str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| Error::io(verb, path, source))
    }
}
