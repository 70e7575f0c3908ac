//! What the fuzzer does with a Dockerfile, and what must then hold. The corpus is replayed through the same
//! function by `tests/corpus_build.rs`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use plywood::build::arguments::Globals;
use plywood::build::ignore::{Patterns, Verdict};
use plywood::build::plan::{Plan, Source};
use plywood::build::state::{Base, State};
use plywood::build::syntax;
use plywood::build::work::{CopySource, Effect, Work};

/// A Dockerfile, and the same text as a list of patterns: refused, or planned and stepped through with nothing
/// as every base image.
pub(crate) fn dockerfile(data: &[u8]) {
    patterns(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(file) = syntax::parse(text, Path::new("Dockerfile")) else {
        return;
    };
    for instruction in file.stages.iter().flat_map(|stage| &stage.instructions) {
        let span = instruction.origin.span.clone();
        assert!(
            instruction
                .origin
                .file
                .text
                .get(span)
                .is_some_and(|text| !text.is_empty())
        );
        let told = instruction.origin.error("x", "wrong").to_string();
        assert_eq!(told.lines().count(), 3, "{told}");
    }
    let given = BTreeMap::from([
        ("A".to_owned(), "$B".to_owned()),
        ("http_proxy".to_owned(), "p".to_owned()),
    ]);
    let Ok(globals) = Globals::new(&file, &given, None) else {
        return;
    };
    let globals = Arc::new(globals);
    for target in 0..file.stages.len().min(8) {
        let Ok(plan) = Plan::new(&file, Some(&target.to_string()), &globals) else {
            continue;
        };
        let mut done: BTreeMap<usize, State> = BTreeMap::new();
        for planned in &plan.stages {
            assert!(planned.waits_for().iter().all(|before| *before < planned.index));
            let base = match planned.base {
                Source::Stage(index) => done.get(&index).map(Base::Stage),
                _ => Some(Base::Scratch),
            };
            let Some(base) = base else { break };
            let mut state = State::begin(base, &globals);
            let mut instructions = state.triggers("base").unwrap_or_default();
            instructions.extend(file.stages[planned.index].instructions.iter().cloned());
            let effects = instructions.iter().map(|instruction| state.step(instruction));
            if effects.map(|effect| effect.map(checked)).all(|effect| effect.is_ok()) {
                done.insert(planned.index, state);
            }
        }
    }
}

/// Nothing that is asked for leads anywhere else.
fn checked(effect: Effect) {
    let plain = |path: &str| !path.split('/').any(|part| part == "..");
    match effect {
        Effect::Config { .. } => {}
        Effect::Work(Work::Folder(work)) => {
            assert!(work.path.starts_with('/') && work.path != "/" && plain(&work.path))
        }
        Effect::Work(Work::Run(work)) => {
            assert!(work.working_dir.starts_with('/') && !work.args.is_empty());
            assert!(work.script.is_none_or(|script| plain(&script.path)));
        }
        Effect::Work(Work::Copy(work)) => {
            assert!(work.target.starts_with('/') && plain(&work.target));
            for source in &work.sources {
                match source {
                    CopySource::Path(path) => assert!(!path.starts_with('/') && plain(path), "{path}"),
                    CopySource::File { name, .. } => assert!(!name.is_empty() && !name.contains('/') && name != ".."),
                }
            }
        }
    }
}

/// A folder that is skipped has nothing below it that is kept.
fn patterns(data: &[u8]) {
    let Ok(patterns) = Patterns::parse(data, Path::new(".dockerignore")) else {
        return;
    };
    let mut names = data
        .split(|byte| b"\n!*/ ".contains(byte))
        .filter(|name| !name.is_empty() && *name != b"..");
    let mut path = names.next().unwrap_or(b"a").to_vec();
    let mut skipped = false;
    for name in names.chain([&b"b"[..]]).take(16) {
        skipped |= patterns.matches(&path, true) == Verdict::Skipped;
        path.push(b'/');
        path.extend_from_slice(name);
        let is_kept = patterns.matches(&path, false) == Verdict::Kept;
        assert!(!(skipped && is_kept), "{:?}", String::from_utf8_lossy(&path));
    }
}
