//! Owns the JUnit form: one test case for each difference. Must not own what fails.
//!
//! There is no standard; this is what the xUnit plugin of Jenkins accepts (its `junit-10.xsd`), which others read too.
//! What fails is a `failure`, what could not be verified an `error`, what was found and does not fail is `skipped`. If
//! nothing fails there is a case that passes, because to many a suite without one is a failure of its own.

use std::borrow::Cow;
use std::io::{self, Write};

use driftlock_common::drift::{Attribute, Change};
use driftlock_common::policy::Judged;
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};

use super::text::{details, drift_line, shown, summary_lines};
use super::{Output, Reader, Whole};
use crate::failure::Failure;

/// Written to memory a case at a time, which does not fail.
const INFALLIBLE: &str = "memory can be written";

/// Writes a whole result as one suite.
pub(super) fn write<W: Write>(output: &mut Output<W>, whole: &Whole<'_>) -> Result<Reader, Failure> {
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    open(&mut xml, whole).expect(INFALLIBLE);
    output.write(&std::mem::take(xml.get_mut()))?;
    for judged in whole.findings {
        case(&mut xml, whole, judged).expect(INFALLIBLE);
        output.write(&std::mem::take(xml.get_mut()))?;
    }
    close(&mut xml, whole).expect(INFALLIBLE);
    output.write(&std::mem::take(xml.get_mut()))?;
    output.write(b"\n")?;
    output.finish()
}

/// How a case ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It differs, and that fails.
    Failure,
    /// It could not be verified.
    Error,
    /// It differs, and that does not fail, or is tolerated.
    Skipped,
}

impl Ending {
    fn of(whole: &Whole<'_>, judged: &Judged<'_>) -> Self {
        let change = judged.drift.change();
        match change {
            _ if !judged.is_alert() => Self::Skipped,
            Change::Unverifiable => Self::Error,
            Change::Added | Change::Removed | Change::Changed if whole.gate.fails_on(change) => Self::Failure,
            Change::Added | Change::Removed | Change::Changed if judged.drift.has_gap() => Self::Error,
            Change::Added | Change::Removed | Change::Changed => Self::Skipped,
        }
    }

    const fn element(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Error => "error",
            Self::Skipped => "skipped",
        }
    }
}

/// The head of the document. Its counts come before what is counted.
fn open(xml: &mut Writer<Vec<u8>>, whole: &Whole<'_>) -> io::Result<()> {
    let count = |ending| whole.findings.iter().filter(|judged| Ending::of(whole, judged) == ending).count();
    let interrupted = usize::from(whole.unreached.is_some());
    let passing = usize::from(whole.exit == 0);
    let tests = (whole.findings.len() + interrupted + passing).to_string();
    let failures = count(Ending::Failure).to_string();
    let errors = (count(Ending::Error) + interrupted).to_string();
    let skipped = count(Ending::Skipped).to_string();
    let millis = whole.summary.duration_ms;
    let time = format!("{}.{:03}", millis / 1000, millis % 1000);
    let suite = format!("driftlock {}", whole.verb);
    let counts = [("tests", tests.as_str()), ("failures", &failures), ("errors", &errors), ("time", &time)];
    xml.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let all = BytesStart::new("testsuites").with_attributes([("name", "driftlock")]).with_attributes(counts);
    xml.write_event(Event::Start(all))?;
    let one = BytesStart::new("testsuite").with_attributes([("name", suite.as_str())]).with_attributes(counts);
    xml.write_event(Event::Start(one.with_attributes([("skipped", skipped.as_str())])))?;
    let properties = properties(whole);
    xml.create_element("properties").write_inner_content(|xml| {
        properties.iter().try_for_each(|(name, value)| {
            let value = legal(value);
            xml.create_element("property").with_attributes([("name", *name), ("value", &*value)]).write_empty()?;
            Ok(())
        })
    })?;
    Ok(())
}

/// What was compared with what, by whom, under which terms.
fn properties(whole: &Whole<'_>) -> Vec<(&'static str, String)> {
    let summary = whole.summary;
    let compared: Vec<&str> = summary.compared.iter().map(Attribute::name).collect();
    let fail_on: Vec<&str> = Change::ALL.iter().filter(|c| whole.gate.fails_on(**c)).map(|c| c.name()).collect();
    let parts: Vec<String> = summary.manifest.parts.iter().map(|part| format!("{} {}", part.tree, part.name)).collect();
    let mut properties = vec![
        ("driftlock.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("manifest.tree", summary.manifest.tree.to_string()),
        ("manifest.sha256", summary.manifest.sha256.to_string()),
        ("manifest.trust", summary.manifest.trust.to_string()),
        ("manifest.origin", summary.manifest.origin.to_string()),
        ("scope", summary.scope.to_string()),
        ("profile", summary.profile.name().to_owned()),
        ("compared", compared.join(",")),
        ("fail_on", fail_on.join(",")),
        ("complete", summary.complete.to_string()),
        ("exit_code", whole.exit.to_string()),
    ];
    properties.extend(summary.manifest.key.clone().map(|key| ("manifest.key", key)));
    if !parts.is_empty() {
        properties.push(("manifest.parts", parts.join("\n")));
    }
    if let Some(policy) = &summary.policy {
        properties.push(("policy.name", policy.name.clone()));
        properties.push(("policy.digest", policy.digest.to_string()));
        properties.push(("tolerated", summary.tolerated.to_string()));
        properties.push(("unjudged.entries", summary.unjudged.entries.to_string()));
        properties.push(("unjudged.bytes", summary.unjudged.bytes.to_string()));
    }
    properties
}

/// A difference.
fn case(xml: &mut Writer<Vec<u8>>, whole: &Whole<'_>, judged: &Judged<'_>) -> io::Result<()> {
    let change = judged.drift.change().name();
    let ending = Ending::of(whole, judged).element();
    let line = drift_line(judged, whole.sealed_in, false);
    let (path, details) = (shown(&judged.drift.path), details(judged, whole.sealed_in));
    write_case(xml, &path, change, Some((ending, &details, line.trim_end())))
}

/// What is no difference, and the end of the document.
fn close(xml: &mut Writer<Vec<u8>>, whole: &Whole<'_>) -> io::Result<()> {
    if let Some(unreached) = whole.unreached {
        let text = format!("{unreached} sealed entries were not looked at, and added ones may be missing");
        write_case(xml, "the scan ran to its end", "interrupted", Some(("error", &text, "")))?;
    }
    if whole.exit == 0 {
        write_case(xml, "nothing fails", "clean", None)?;
    }
    let summary = summary_lines(whole.summary);
    xml.create_element("system-out").write_text_content(BytesText::new(&legal(&summary)))?;
    xml.write_event(Event::End(BytesEnd::new("testsuite")))?;
    xml.write_event(Event::End(BytesEnd::new("testsuites")))
}

/// One case; `ending` is its element, its message and its text, if it does not pass.
fn write_case(
    xml: &mut Writer<Vec<u8>>,
    name: &str,
    class: &str,
    ending: Option<(&str, &str, &str)>,
) -> io::Result<()> {
    let name = legal(name);
    let class_name = format!("driftlock.{class}");
    let case = xml.create_element("testcase").with_attributes([("name", &*name), ("classname", class_name.as_str())]);
    let Some((element, message, text)) = ending else { return case.write_empty().map(|_| ()) };
    let message = legal(message);
    let text = legal(text);
    case.write_inner_content(|xml| {
        let element = xml.create_element(element).with_attributes([("type", class), ("message", &*message)]);
        if text.is_empty() { element.write_empty() } else { element.write_text_content(BytesText::new(&text)) }?;
        Ok(())
    })?;
    Ok(())
}

/// Text without what no XML document may hold, not even as a reference (XML 1.0, production 2, `Char`): such a character
/// gets the escape that all names have.
fn legal(text: &str) -> Cow<'_, str> {
    let is_legal =
        |ch: char| matches!(ch, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    if text.chars().all(is_legal) {
        return text.into();
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for ch in text.chars() {
        if is_legal(ch) {
            safe.push(ch);
        } else {
            let mut buffer = [0; 4];
            ch.encode_utf8(&mut buffer).bytes().for_each(|byte| safe.extend(format!("\\x{byte:02x}").chars()));
        }
    }
    safe.into()
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use crate::cli::FormatArg;

    #[test]
    fn the_form_is_the_golden_one() {
        let golden = sample::of_this_version(include_str!("../../golden/sample.xml"));
        assert_eq!(sample::written(FormatArg::Junit), golden);
    }

    #[test]
    fn what_a_policy_tolerates_is_no_failure() {
        let golden = sample::of_this_version(include_str!("../../golden/policy.xml"));
        assert_eq!(sample::judged(FormatArg::Junit, false), golden);
    }

    #[test]
    fn a_clean_tree_is_one_case_that_passes() {
        let written = sample::clean(FormatArg::Junit);
        assert_eq!(written.matches("<testcase").count(), 1, "{written}");
        assert!(written.contains("<testcase name=\"nothing fails\" classname=\"driftlock.clean\"/>"), "{written}");
        assert!(written.contains("tests=\"1\" failures=\"0\" errors=\"0\""), "{written}");
    }

    #[test]
    fn what_no_document_may_hold_is_escaped() {
        assert_eq!(legal("a\tb\n"), "a\tb\n");
        assert_eq!(legal("\u{fffe}\u{ffff}\u{10ffff}\0"), "\\xef\\xbf\\xbe\\xef\\xbf\\xbf\u{10ffff}\\x00");
    }
}
