//! Owns the manual page of the agent's configuration, made of the default configuration's own comments. Must not own a
//! word of it.

/// The page's file.
pub(crate) const NAME: &str = "driftlock-agent.toml.5";
/// The default configuration, as shipped.
pub(crate) const DEFAULT: &str = include_str!("../config/agent.toml");

const HEAD: &str = r#".TH driftlock-agent.toml 5 "" driftlock
.SH NAME
driftlock\-agent.toml \- configuration of the driftlock agent
.SH SYNOPSIS
.I /etc/driftlock/agent.toml
.SH DESCRIPTION
"#;

/// The page in roff. Comments explain what follows them; `#:` begins an example.
pub(crate) fn page(configuration: &str) -> String {
    let mut page = HEAD.to_owned();
    let mut said = Vec::new();
    let mut described = false;
    for line in configuration.lines() {
        let line = line.strip_prefix("#:").map_or(line, str::trim_start);
        if let Some(comment) = line.strip_prefix('#') {
            said.push(escape(comment.trim_start()));
        } else if line.starts_with('[') {
            let table = line.trim_matches(['[', ']']);
            page.push_str(".SH ");
            page.push_str(&escape(&table.to_uppercase()));
            page.push_str("\nKeys of\n.BR ");
            page.push_str(&escape(line));
            page.push_str(".\n");
            page.push_str(&paragraph(&mut said));
        } else if line.contains('=') {
            page.push_str(".TP\n.B ");
            page.push_str(&escape(line));
            page.push('\n');
            page.push_str(&paragraph(&mut said));
        } else if !described {
            described = true;
            page.push_str(&paragraph(&mut said));
        }
    }
    page.push_str(".SH SEE ALSO\n.BR driftlock\\-agent (1),\n.BR driftlock\\-check\\-config (1)\n");
    page
}

fn paragraph(said: &mut Vec<String>) -> String {
    said.drain(..).map(|line| line + "\n").collect()
}

/// Text that roff prints as it stands: a backslash, a hyphen, and a dot or quote at a line's start mean something to it.
pub(crate) fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('"', "\\(dq");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_table_of_the_default_configuration_is_in_the_page() {
        let page = page(DEFAULT);
        let lines = || DEFAULT.lines().map(|line| line.strip_prefix("#:").map_or(line, str::trim_start));
        let keys: Vec<&str> = lines().filter(|line| !line.starts_with('#') && line.contains(" = ")).collect();
        assert!(keys.len() > 15, "{keys:?}");
        for key in keys {
            assert!(page.contains(&format!(".TP\n.B {}\n", escape(key))), "{key}");
        }
        for table in lines().filter(|line| line.starts_with('[')) {
            assert!(page.contains(&format!("\n.BR {}.\n", escape(table))), "{table}");
        }
    }

    #[test]
    fn what_roff_would_take_for_its_own_is_escaped() {
        assert_eq!(escape(".so /etc/passwd"), "\\&.so /etc/passwd");
        assert_eq!(escape(r#"a\b "c" - d"#), r"a\eb \(dqc\(dq \- d");
    }
}
