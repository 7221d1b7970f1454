//! Owns a build step as a person reads it: a line of an image's history without what builders put around the command.
//! Must not own the line, which a header keeps as it is.
//!
//! What builders write (there is no standard; `created_by` is free text):
//! - classic `docker build`, buildah: `/bin/sh -c #(nop) COPY file:… in /`, `/bin/sh -c make`, `|1 V=2 /bin/sh -c make`
//! - BuildKit: `COPY app / # buildkit`, `RUN /bin/sh -c make # buildkit`, `RUN |1 V=2 /bin/sh -c make # buildkit`

use crate::path::is_hidden;

/// The longest step that is shown, in bytes.
pub const MAX_STEP: usize = 512;
/// So much of a line is looked at, in bytes: a header's line may be far longer.
const MAX_LOOKED_AT: usize = 8 * MAX_STEP;
const CUT: &str = "…";

/// The step in a line of history, if it says anything: on one line, hidden characters as `\xNN`, at most [`MAX_STEP`].
pub(super) fn step(line: &str) -> Option<String> {
    let line = line.trim_start();
    let line = line[..line.floor_char_boundary(MAX_LOOKED_AT)].trim_end();
    let line = line.strip_suffix("# buildkit").unwrap_or(line).trim_end();
    let (command, run) = match line.strip_prefix("RUN ") {
        Some(command) => (command.trim_start(), true),
        None => (line, false),
    };
    let (command, run) = match without_arguments(command) {
        Some(command) => (command, true),
        None => (command, run),
    };
    let (command, run) = match command.strip_prefix("/bin/sh -c ").map(str::trim_start) {
        Some(command) => command.strip_prefix("#(nop)").map_or((command, true), |command| (command, false)),
        None => (command, run),
    };
    let text = shown(if run { "RUN " } else { "" }, command);
    (!text.is_empty()).then_some(text)
}

/// The command after `|N NAME=VALUE …`, as many values as it says. They are what a build was given: often long, and
/// sometimes a secret. A value may hold spaces, so the usual shell ends them sooner than their number does.
fn without_arguments(command: &str) -> Option<&str> {
    let (number, rest) = command.strip_prefix('|')?.split_once(' ')?;
    let number: usize = number.parse().ok()?;
    if let Some(shell) = rest.find("/bin/sh -c ") {
        return Some(&rest[shell..]);
    }
    let mut rest = rest;
    for _ in 0..number {
        // Whoever kept the line cut it in a value: the command is not known.
        let Some((argument, after)) = rest.split_once(' ') else { return rest.contains('=').then_some(CUT) };
        rest = argument.contains('=').then_some(after)?;
    }
    Some(rest)
}

/// Words with one space between each two.
fn shown(before: &str, text: &str) -> String {
    let mut line = before.to_owned();
    for (index, word) in text.split_whitespace().enumerate() {
        line.push_str(if index == 0 { "" } else { " " });
        for ch in word.chars() {
            if is_hidden(ch) {
                let mut buffer = [0; 4];
                line.extend(ch.encode_utf8(&mut buffer).bytes().map(|byte| format!("\\x{byte:02x}")));
            } else {
                line.push(ch);
            }
        }
    }
    if line.len() > MAX_STEP {
        line.truncate(line.floor_char_boundary(MAX_STEP - CUT.len()));
        line.push_str(CUT);
    }
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_builders_put_around_a_command_is_not_shown() {
        for (line, shown) in [
            ("/bin/sh -c #(nop) ADD file:ab1 in / ", "ADD file:ab1 in /"),
            ("/bin/sh -c #(nop)  CMD [\"bash\"]", "CMD [\"bash\"]"),
            ("/bin/sh -c apt-get update \t&&   apt-get install nginx", "RUN apt-get update && apt-get install nginx"),
            ("|2 V=1.2 W=a b /bin/sh -c make", "RUN make"),
            ("COPY app /srv # buildkit", "COPY app /srv"),
            ("RUN /bin/sh -c make # buildkit", "RUN make"),
            ("RUN |1 TOKEN=secret /bin/sh -c make install # buildkit", "RUN make install"),
            ("RUN |1 V=2 /bin/bash -c make # buildkit", "RUN /bin/bash -c make"),
            ("RUN /bin/bash -o pipefail -c a | b # buildkit", "RUN /bin/bash -o pipefail -c a | b"),
            ("# debian.sh --arch 'amd64' out/ 'trixie'", "# debian.sh --arch 'amd64' out/ 'trixie'"),
            ("umoci insert", "umoci insert"),
            ("RUN |2 V=2 TOKEN=secr…", "RUN …"),
            // What only looks like values is left as it is.
            ("|x /bin/ls", "|x /bin/ls"),
            ("|3 A=1 b c", "|3 A=1 b c"),
            ("|9", "|9"),
            ("RUN printf 'a\\n'", "RUN printf 'a\\n'"),
            ("a\u{1b}[31m\n\u{202e}b", "a\\x1b[31m \\xe2\\x80\\xaeb"),
        ] {
            assert_eq!(step(line).as_deref(), Some(shown), "{line}");
        }
        for nothing in ["", " \t\n", "# buildkit", "/bin/sh -c #(nop) "] {
            assert_eq!(step(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn a_long_step_is_cut_between_two_characters() {
        for (line, len) in [("x".repeat(512), 512), ("x".repeat(513), 512), ("é".repeat(2000), 511)] {
            let step = step(&line).unwrap();
            assert_eq!(step.len(), len);
            assert_eq!(step.ends_with('…'), line.len() > MAX_STEP);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_that_acts_on_a_terminal_gets_through(line in any::<String>(), times in 1..3000_usize) {
            for line in [line.clone(), line.repeat(times), format!("RUN |1 {line}"), format!("/bin/sh -c {line}")] {
                let step = step(&line).unwrap_or_default();
                prop_assert!(step.len() <= MAX_STEP && !step.chars().any(is_hidden), "{step:?}");
            }
        }
    }
}
