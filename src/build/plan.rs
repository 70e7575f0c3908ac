//! Which stages a target needs, and what each of them needs before it can be built.
//!
//! A stage is named by its name or by its number; where a name stands in the file twice, the nearest one above
//! is meant. A `FROM` that names no stage above it is an image's, even if a stage below has that name; a
//! `--from` that names the stage itself or one below is an error. So needs always point upwards, there are no
//! cycles, and the order of the file is an order to build in.

use std::collections::{BTreeMap, BTreeSet};

use super::arguments::Globals;
use super::state::pointed;
use super::syntax::values::nearest;
use super::syntax::{self, Dockerfile, Instruction, Stage, Word};
use crate::error::{Error, Result};
use crate::image::oci;

/// What a word after `FROM`, `--from=` or `from=` stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Nothing.
    Scratch,
    /// An earlier stage, by its number from 0.
    Stage(usize),
    /// An image, by its name.
    Image(String),
}

/// A stage that is to be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Its number in the file, from 0.
    pub index: usize,
    /// What it begins with.
    pub base: Source,
    /// Stages and images that it needs beside its base.
    pub needs: BTreeSet<Source>,
}

impl Planned {
    /// The stages that have to be built before this one.
    pub fn waits_for(&self) -> BTreeSet<usize> {
        let stages = self.needs.iter().chain([&self.base]).filter_map(|source| match source {
            Source::Stage(index) => Some(*index),
            _ => None,
        });
        stages.collect()
    }
}

/// What is to be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The stage that was asked for.
    pub target: usize,
    /// It and all that it needs, in the order of the file: each after those that it waits for.
    pub stages: Vec<Planned>,
    /// The stages' names, in order.
    names: Vec<Option<String>>,
}

impl Plan {
    /// Plans for a target: a stage's name or number; the last one by default. What an image's `ONBUILD` needs is
    /// left out: see [`Plan::with_triggers`].
    ///
    /// # Errors
    /// Not found where the target is none; invalid, pointing at the word, where a stage needs itself or one
    /// below, or is for another platform.
    pub fn new(file: &Dockerfile, target: Option<&str>, globals: &Globals) -> Result<Self> {
        Self::with_triggers(file, target, globals, &|_| Ok(Vec::new()))
    }

    /// The same, where it is known what the `ONBUILD` instructions of images are; `triggers` gives those of the
    /// image with a name.
    ///
    /// # Errors
    /// As for [`Plan::new`]; an instruction that is none, or needs what cannot be needed there; the caller's.
    pub fn with_triggers(
        file: &Dockerfile,
        target: Option<&str>,
        globals: &Globals,
        triggers: &dyn Fn(&str) -> Result<Vec<Instruction>>,
    ) -> Result<Self> {
        let mut plan = Self {
            target: 0,
            stages: Vec::new(),
            names: file.stages.iter().map(|stage| stage.name.clone()).collect(),
        };
        plan.target = match target {
            Some(target) => plan.find_target(target)?,
            None => file.stages.len().saturating_sub(1),
        };
        let mut planned = BTreeMap::new();
        let mut wanted = vec![plan.target];
        while let Some(index) = wanted.pop() {
            let Some(stage) = file.stages.get(index).filter(|_| !planned.contains_key(&index)) else {
                continue;
            };
            let mut stage = plan.stage(file, index, stage, globals)?;
            if let Source::Image(name) = &stage.base {
                stage.needs.extend(plan.needs(index, &triggers(name)?)?);
            }
            wanted.extend(stage.waits_for());
            planned.insert(index, stage);
        }
        plan.stages = planned.into_values().collect();
        Ok(plan)
    }

    fn find_target(&self, target: &str) -> Result<usize> {
        let lower = target.to_ascii_lowercase();
        let named = self
            .names
            .iter()
            .rposition(|name| name.as_deref() == Some(lower.as_str()));
        let numbered = || target.parse().ok().filter(|index| *index < self.names.len());
        named.or_else(numbered).ok_or_else(|| {
            let known: Vec<&str> = self.names.iter().flatten().map(String::as_str).collect();
            let error = Error::not_found(format!("the Dockerfile has no stage {target:?}"));
            match nearest(target, &known) {
                Some(near) => error.hinted(format!("did you mean --target {near}?")),
                None if known.is_empty() => error.hinted("none of its stages has a name: FROM IMAGE AS NAME"),
                None => error.hinted(format!("there are {}", known.join(", "))),
            }
        })
    }

    fn stage(&self, file: &Dockerfile, index: usize, stage: &Stage, globals: &Globals) -> Result<Planned> {
        let told = |word: &str, cause: &Error| pointed(&stage.origin, word, cause);
        if let Some(platform) = &stage.platform {
            let expanded = globals.expand(platform).map_err(|cause| told(platform, &cause))?;
            is_ours(&expanded).map_err(|cause| told(platform, &cause))?;
        }
        let base = globals.expand(&stage.base).map_err(|cause| told(&stage.base, &cause))?;
        if base.is_empty() {
            let cause = Error::invalid(format!("the image's name is empty: {}", stage.base))
                .hinted("give it: --build-arg NAME=IMAGE, or a default by ARG NAME=IMAGE before the first FROM");
            return Err(told(&stage.base, &cause));
        }
        let base = match self.above(index, &base) {
            Some(above) => Source::Stage(above),
            None if base == "scratch" => Source::Scratch,
            None => Source::Image(base),
        };
        let mut needs = self.needs(index, &stage.instructions)?;
        if let Source::Stage(above) = base {
            // What the stage below this one left for it comes before its own instructions.
            let left = file.stages.get(above).map_or(&[][..], |stage| &stage.instructions);
            for instruction in left {
                if let Word::Onbuild(text) = &instruction.word {
                    let trigger = syntax::parse_trigger(text, &instruction.origin.file.shown)?;
                    needs.extend(self.needs(index, &[trigger])?);
                }
            }
        }
        Ok(Planned { index, base, needs })
    }

    /// What the instructions of a stage need.
    ///
    /// # Errors
    /// Invalid, pointing at the word, where one needs its own stage or one below.
    fn needs(&self, index: usize, instructions: &[Instruction]) -> Result<BTreeSet<Source>> {
        let mut needs = BTreeSet::new();
        for instruction in instructions {
            let froms: Vec<&str> = match &instruction.word {
                Word::Add(copy) | Word::Copy(copy) => copy.from.iter().map(String::as_str).collect(),
                Word::Run(run) => run.mounts.iter().filter_map(|mount| mount.from.as_deref()).collect(),
                _ => continue,
            };
            for from in froms {
                let source = self.source(index, from);
                needs.insert(source.map_err(|cause| pointed(&instruction.origin, &format!("from={from}"), &cause))?);
            }
        }
        Ok(needs)
    }

    /// What `--from` or `from` of a stage's instruction stands for.
    ///
    /// # Errors
    /// Invalid where it is the stage itself, or one below.
    pub fn source(&self, index: usize, from: &str) -> Result<Source> {
        if let Some(above) = self.above(index, from) {
            return Ok(Source::Stage(above));
        }
        if let Ok(number) = from.parse::<usize>() {
            return match number {
                number if number < index => Ok(Source::Stage(number)),
                number if number == index => Err(Error::invalid(format!("stage {number} needs itself"))),
                number if number < self.names.len() => {
                    Err(Error::invalid(format!("stage {number} comes after this one"))
                        .hinted("only stages above can be used: move it up"))
                }
                _ => Err(Error::invalid(format!(
                    "there is no stage {number}: the last is {}",
                    self.names.len().saturating_sub(1)
                ))),
            };
        }
        let lower = from.to_ascii_lowercase();
        let is_it = |name: &Option<String>| name.as_deref() == Some(lower.as_str());
        if self.names.get(index).is_some_and(is_it) {
            return Err(Error::invalid(format!("the stage {from} needs itself")));
        }
        if self.names.iter().skip(index).any(is_it) {
            return Err(Error::invalid(format!("the stage {from} comes after this one"))
                .hinted("only stages above can be used: move it up"));
        }
        Ok(match from {
            "scratch" => Source::Scratch,
            image => Source::Image(image.to_owned()),
        })
    }

    /// The nearest stage above with a name.
    fn above(&self, index: usize, name: &str) -> Option<usize> {
        let lower = name.to_ascii_lowercase();
        let above = self.names.get(..index)?;
        above.iter().rposition(|name| name.as_deref() == Some(lower.as_str()))
    }
}

/// Refuses a platform that is not this machine's.
fn is_ours(platform: &str) -> Result<()> {
    let lower = platform.to_ascii_lowercase();
    let mut parts: Vec<&str> = lower.split('/').collect();
    if parts.len() == 1 && parts[0] != "linux" {
        parts.insert(0, "linux");
    }
    let ours = oci::architecture();
    let is_ours = parts[0] == "linux"
        && match parts.get(1).copied() {
            None => true,
            Some("x86_64" | "x86-64") => ours == "amd64",
            Some("aarch64") => ours == "arm64",
            Some(architecture) => architecture == ours,
        }
        && parts.len() <= 3;
    if is_ours {
        return Ok(());
    }
    Err(
        Error::invalid(format!("the platform {platform:?} is not this machine's, linux/{ours}"))
            .hinted("plywood builds for the machine that it runs on: leave --platform away, or use $BUILDPLATFORM"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;

    fn plan(text: &str, target: Option<&str>) -> Result<Plan> {
        let file = syntax::parse(text, Path::new("Dockerfile")).unwrap();
        let given = BTreeMap::from([("GIVEN".to_owned(), "image:given".to_owned())]);
        Plan::new(&file, target, &Globals::new(&file, &given, target).unwrap())
    }

    /// `INDEX BASE NEEDS…` of each stage.
    fn shown(text: &str, target: Option<&str>) -> Vec<String> {
        let source = |source: &Source| match source {
            Source::Scratch => "scratch".to_owned(),
            Source::Stage(index) => format!("#{index}"),
            Source::Image(name) => name.clone(),
        };
        let plan = plan(text, target).unwrap();
        let stage = |stage: &Planned| {
            let needs: String = stage.needs.iter().map(|need| format!(" {}", source(need))).collect();
            format!("{} {}{needs}", stage.index, source(&stage.base))
        };
        plan.stages.iter().map(stage).collect()
    }

    #[test]
    fn only_what_is_needed_is_planned() {
        let text = "FROM a AS one\nFROM b AS two\nFROM one AS three\nCOPY --from=two x y\nFROM c AS four\n";
        assert_eq!(shown(text, None), ["3 c"]);
        assert_eq!(shown(text, Some("THREE")), ["0 a", "1 b", "2 #0 #1"]);
        assert_eq!(shown(text, Some("1")), ["1 b"]);
        let three = plan(text, Some("three")).unwrap().stages.pop().unwrap();
        assert_eq!(three.waits_for(), BTreeSet::from([0, 1]));
        let told = plan(text, Some("thre")).unwrap_err();
        assert!(told.hint().unwrap().contains("--target three"), "{told}");
        assert!(plan(text, Some("4")).is_err());
    }

    #[test]
    fn names_stand_for_stages_images_or_nothing() {
        for (text, wanted) in [
            ("FROM scratch", vec!["0 scratch"]),
            ("FROM debian AS debian", vec!["0 debian"]),
            ("FROM b AS a\nFROM a AS b\nFROM B", vec!["0 b", "1 #0", "2 #1"]),
            ("FROM a AS x\nFROM b AS x\nFROM x", vec!["1 b", "2 #1"]),
            ("FROM a AS x\nFROM s\nCOPY --from=0 a b\nFROM b AS x", vec!["2 b"]),
            (
                "FROM a AS x\nFROM s AS y\nCOPY --from=x a b\nFROM b AS x\nCOPY --from=y a b",
                vec!["0 a", "1 s #0", "2 b #1"],
            ),
            (
                "FROM a\nFROM b\nCOPY --from=0 a b\nRUN --mount=from=img:1,target=/x c",
                vec!["0 a", "1 b #0 img:1"],
            ),
            ("FROM a\nCOPY --from=scratch a b", vec!["0 a scratch"]),
            ("ARG V=1\nARG I=x:$V\nFROM $I", vec!["0 x:1"]),
            ("ARG GIVEN=a\nFROM ${GIVEN}", vec!["0 image:given"]),
            (
                "FROM a:$TARGETARCH",
                vec![match oci::architecture() {
                    "amd64" => "0 a:amd64",
                    _ => "0 a:arm64",
                }],
            ),
            ("FROM --platform=$BUILDPLATFORM a\nFROM --platform=linux b", vec!["1 b"]),
            (
                "FROM a AS x\nONBUILD COPY --from=tool a b\nFROM x",
                vec!["0 a", "1 #0 tool"],
            ),
            (
                "FROM x AS tool\nFROM a AS x\nONBUILD COPY --from=tool a b\nFROM x",
                vec!["0 x", "1 a", "2 #1 #0"],
            ),
        ] {
            assert_eq!(shown(text, None), wanted, "{text}");
        }
    }

    #[test]
    fn an_images_triggers_count() {
        let text = "FROM a AS tool\nFROM b AS other\nFROM onbuild\nRUN x";
        let file = syntax::parse(text, Path::new("Dockerfile")).unwrap();
        let globals = Globals::new(&file, &BTreeMap::new(), None).unwrap();
        let planned = |trigger: &str| {
            Plan::with_triggers(&file, None, &globals, &|name| match name {
                "onbuild" => Ok(vec![syntax::parse_trigger(trigger, Path::new("ONBUILD of onbuild"))?]),
                _ => Ok(Vec::new()),
            })
        };
        let plan = planned("COPY --from=tool x y").unwrap();
        let stages: Vec<usize> = plan.stages.iter().map(|stage| stage.index).collect();
        assert_eq!(stages, [0, 2]);
        assert_eq!(plan.stages[1].waits_for(), BTreeSet::from([0]));
        assert_eq!(planned("RUN x").unwrap().stages.len(), 1);
        let told = planned("COPY --from=2 x y").unwrap_err().to_string();
        assert!(
            told.starts_with("ONBUILD of onbuild:1:8: stage 2 needs itself"),
            "{told}"
        );
    }

    #[test]
    fn what_cannot_be_planned_points_at_the_word() {
        for (text, place, why) in [
            ("FROM a AS x\nCOPY --from=x a b", "2:8", "needs itself"),
            ("FROM a\nCOPY --from=0 a b", "2:8", "needs itself"),
            (
                "FROM a AS x\nCOPY --from=y a b\nFROM x AS y",
                "2:8",
                "comes after this one",
            ),
            (
                "FROM a\nRUN --mount=from=1,target=/x b\nFROM 0\nCOPY --from=0 a b",
                "2:13",
                "comes after",
            ),
            ("FROM a\nCOPY --from=7 a b", "2:8", "no stage 7: the last is 0"),
            ("FROM $NONE", "1:6", "name is empty"),
            ("FROM ${NONE:?missing}", "1:6", "NONE: missing"),
            ("FROM --platform=plan9/mips a", "1:17", "not this machine's"),
            ("FROM --platform=$NONE a", "1:17", "not this machine's"),
        ] {
            let told = plan(text, None).unwrap_err().to_string();
            assert!(
                told.starts_with(&format!("Dockerfile:{place}: ")) && told.contains(why),
                "{text}: {told}"
            );
        }
    }
}
