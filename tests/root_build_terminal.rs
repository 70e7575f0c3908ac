//! `plywood build` on a terminal: what is drawn while it works, and what stays.

mod common;

use common::site::Site;
use common::terminal::{Shown, on_a_terminal, press, shown, spawn, until};
use common::words;

/// Builds on a terminal of 24 rows and 60 columns.
fn build(site: &Site, args: &[&str]) -> Shown {
    let context = site.path(".");
    let words = [&["build", "-t", "image"], args, &[context.to_str().unwrap()]].concat();
    on_a_terminal(&site.plywood.command(words), 24, 60)
}

/// The widest line that was drawn before the image's id was printed.
fn widest(raw: &str) -> usize {
    let (drawn, _) = raw.split_once("sha256:").unwrap_or((raw, ""));
    let lines = drawn.split(['\n', '\r']);
    let widths = lines.map(|line| line.trim_start_matches("\u{1b}[2K").chars().count());
    widths.max().unwrap_or(0)
}

#[test]
fn root_a_step_at_work_is_drawn_and_leaves_one_line() {
    let site = Site::new("overlay");
    let long = "x".repeat(200);
    site.dockerfile(&format!(
        "FROM base\nRUN for i in $(seq 30); do echo \"line $i {long}\"; done; printf '50%%\\r'; sleep 1\nENV A=b\nRUN true\n"
    ));
    let first = build(&site, &[]);
    assert_eq!(first.code, 0, "{:#?}", first.screen);
    // While it worked: its last lines, with the time, no wider than the terminal; of those before them none.
    assert!(first.raw.contains(" line 30 xxx"), "{}", first.raw);
    assert!(first.raw.contains(" line 26 xxx"), "{}", first.raw);
    // And what stands in a line that has not ended.
    assert!(first.raw.contains(" 50%\r"), "{}", first.raw);
    assert_eq!(widest(&first.raw), 59, "{}", first.raw);
    // In the end: a line of each step, with its time at the right, and the id.
    let steps: Vec<&String> = first.screen.iter().filter(|line| line.starts_with('[')).collect();
    assert_eq!(steps.len(), 4, "{:#?}", first.screen);
    assert_eq!(steps[0], "[1/4] FROM base");
    assert!(
        steps[1].starts_with("[2/4] RUN for i in ") && steps[1].ends_with(" s"),
        "{steps:?}"
    );
    assert_eq!(steps[1].chars().count(), 59);
    assert!(
        first.screen.iter().all(|line| !line.contains("line 30")),
        "{:#?}",
        first.screen
    );
    let again = build(&site, &[]);
    assert!(again.line("[2/4]").ends_with("  cached"), "{:#?}", again.screen);
    assert_eq!(again.screen.len(), 6, "{:#?}", again.screen);
    // Lines one after the other, where that is asked for.
    let plain = build(&site, &["--progress", "plain", "--no-cache"]);
    assert!(
        !plain.raw.contains('\u{1b}') && plain.raw.contains("done in"),
        "{}",
        plain.raw
    );
    let quiet = site.plywood.command(["-q", "build", site.path(".").to_str().unwrap()]);
    assert_eq!(on_a_terminal(&quiet, 24, 60).screen.len(), 2);
    let told = site
        .plywood
        .fails(2, ["build", "--progress", "tty", site.path(".").to_str().unwrap()]);
    assert!(told.contains("standard error"), "{told}");
    site.plywood.sound();
}

#[test]
fn root_what_a_command_prints_does_not_drive_the_terminal() {
    let site = Site::new("overlay");
    site.dockerfile(
        "FROM base\nRUN printf '\\033[2J\\033]0;title\\007\\033[31mred\\033[5;5H\\033[?25l\\n'; sleep 1; printf '\\033[7Dend\\n'; exit 3\n",
    );
    for progress in ["tty", "plain"] {
        let seen = build(&site, &["--progress", progress]);
        assert_eq!(seen.code, 1, "{:#?}", seen.screen);
        for sequence in [
            "\u{1b}[2J",
            "\u{1b}]",
            "\u{1b}[31m",
            "\u{1b}[5;5H",
            "\u{1b}[?25l",
            "\u{1b}[7D",
            "\u{7}",
        ] {
            assert!(!seen.raw.contains(sequence), "{progress} {sequence:?}: {:?}", seen.raw);
        }
        // With the error its last lines stay.
        assert_eq!(seen.line("    red"), "    red");
        assert_eq!(seen.line("    end"), "    end");
        assert!(seen.line("Error: ").contains("the command ended with code 3"));
        if progress == "tty" {
            assert!(seen.line("[2/2] RUN").contains("  failed  "), "{:#?}", seen.screen);
        }
    }
    site.plywood.sound();
}

#[test]
fn root_stages_at_work_are_drawn_below_each_other() {
    let site = Site::new("overlay");
    let stage = |own: &str, other: &str| {
        format!(
            "FROM base AS {own}\nRUN --mount=type=cache,target=/meet,id=meet touch /meet/{own}; for i in $(seq 300); do test -e /meet/{other} && break; sleep 0.1; done; echo {own} is here; sleep 1; echo {own} > /{own}\n"
        )
    };
    let text = format!(
        "{}{}FROM base\nCOPY --from=one /one /\nCOPY --from=two /two /\n",
        stage("one", "two"),
        stage("two", "one")
    );
    site.dockerfile(&text);
    let seen = build(&site, &[]);
    assert_eq!(seen.code, 0, "{:#?}", seen.screen);
    // One drawing with both.
    let both = |drawing: &str| drawing.contains("[one 2/2]") && drawing.contains("[two 2/2]");
    assert!(seen.raw.split("\u{1b}[0J").any(both), "{}", seen.raw);
    assert!(
        seen.raw.contains(" one is here") && seen.raw.contains(" two is here"),
        "{}",
        seen.raw
    );
    for line in [
        "[one 2/2] RUN",
        "[two 2/2] RUN",
        "[stage-2 2/3] COPY",
        "[stage-2 3/3] COPY",
    ] {
        assert!(seen.line(line).ends_with(" s"), "{:#?}", seen.screen);
        assert_eq!(seen.screen.iter().filter(|other| other.starts_with(line)).count(), 1);
    }
    // One that fails ends the others; its error is the only one.
    site.dockerfile("FROM base AS one\nRUN sleep 600\nFROM base AS two\nRUN sleep 1; echo why; exit 9\nFROM base\nCOPY --from=one / /one\nCOPY --from=two / /two\n");
    let seen = build(&site, &[]);
    assert!(
        seen.line("Error: ")
            .contains("Dockerfile:4:1: the command ended with code 9")
    );
    assert_eq!(seen.line("    why"), "    why");
    assert!(seen.line("[two 2/2]").contains("  failed  "), "{:#?}", seen.screen);
    assert!(seen.line("[one 2/2]").contains("  stopped  "), "{:#?}", seen.screen);
    assert_eq!(
        seen.screen.iter().filter(|line| line.contains("Error")).count(),
        1,
        "{:#?}",
        seen.screen
    );
    assert_eq!(site.plywood.json(["ps", "-a"]), serde_json::json!([]));
    site.plywood.sound();
}

#[test]
fn root_ctrl_c_leaves_the_terminal_as_it_was() {
    let site = Site::new("overlay");
    site.dockerfile("FROM base\nRUN echo here; sleep 600; true\n");
    let context = site.path(".");
    let command = words(&site.plywood.command(["build", context.to_str().unwrap()]));
    // The shell goes on, and says how it finds the terminal.
    let line = format!("trap : INT; stty -a; {command}; echo code $?; stty -a");
    let mut child = spawn(&line, 24, 60);
    let raw = until(&mut child, " here\r");
    press(&mut child, "\u{3}");
    let seen = shown(child, raw);
    assert_eq!(seen.line("code"), "code 130");
    assert!(seen.line("[2/2] RUN").contains("  failed  "), "{:#?}", seen.screen);
    let settings: Vec<&String> = seen.screen.iter().filter(|line| line.contains("icanon")).collect();
    assert!(settings.len() == 2 && settings[0] == settings[1], "{:#?}", seen.screen);
    assert!(!seen.raw.contains("\u{1b}[?25l"));
    assert_eq!(site.plywood.json(["ps", "-a"]), serde_json::json!([]));
    site.plywood.sound();
}
