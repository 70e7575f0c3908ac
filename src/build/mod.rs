//! Dockerfiles: read, planned, and each step evaluated and given its cache key. What a step does to a
//! filesystem is the caller's to do.
//!
//! - [`syntax`]: the text as typed instructions; errors point at the word;
//! - [`plan`]: which stages are needed, and which of them others wait for;
//! - [`ignore`]: `.dockerignore`, and the patterns that `COPY` takes;
//! - [`arguments`]: build arguments, and what `FROM` sees of them;
//! - [`work`]: what an instruction asks of a root;
//! - [`state`]: what a stage has come to (config, arguments), and what an instruction makes of it; `history`: what
//!   that is called in the image;
//! - [`context`]: the folder that `COPY` reads, by handle: what of it is copied, as a layer's tar;
//! - [`key`]: what a step's result depends on, as a digest.
//!
//! Walk of one build: [`syntax::parse`] the Dockerfile, [`plan::Plan::new`] for the target; for each stage a
//! [`state::State`] begins with its base image; each instruction either changes the state alone or asks for
//! [`work::Work`], whose key is looked up among the store's steps; where there is none the caller does it on
//! a snapshot of the layer below and commits that. The last stage's state is the image.

pub mod arguments;
pub mod context;
mod history;
pub mod ignore;
pub mod key;
pub mod plan;
pub mod state;
pub mod syntax;
pub mod target;
pub mod work;
