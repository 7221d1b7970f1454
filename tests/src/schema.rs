//! Owns asking validators that are not ours whether a file is what it claims to be. Must not own what the file has to
//! say beside that.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::binaries::workspace;
use crate::require::Requirement;

/// Debian's own interpreter, which has the packages that are required.
pub const PYTHON: &str = "/usr/bin/python3";

/// What the script below needs: a validator, and what makes it look at URIs.
pub const PYTHON_MODULES: &str = "import jsonschema, rfc3987";

const VALIDATE: &str = r"
import json, sys
from jsonschema.validators import validator_for
schema, document = (json.load(open(name, encoding='utf-8')) for name in sys.argv[1:])
Validator = validator_for(schema, default=None)
Validator.check_schema(schema)
assert 'uri-reference' in Validator.FORMAT_CHECKER.checkers
problems = list(Validator(schema, format_checker=Validator.FORMAT_CHECKER).iter_errors(document))
sys.exit('\n'.join(f'{list(problem.path)}: {problem.message[:300]}' for problem in problems) or None)
";

/// Checks a file against the schema of SARIF 2.1.0.
///
/// # Errors
/// With what is wrong with it.
pub fn sarif(file: &Path) -> Result<()> {
    let mut command = Command::new(PYTHON);
    command.args(["-c", VALIDATE]).arg(schema("sarif-schema-2.1.0.json")).arg(file);
    run(&mut command).map(drop)
}

/// Checks a file of JSON against a schema that says of which draft it is.
///
/// # Errors
/// With what is wrong with it.
pub fn json(schema: &Path, file: &Path) -> Result<()> {
    let mut command = Command::new(PYTHON);
    command.args(["-c", VALIDATE]).args([schema, file]);
    run(&mut command).map(drop)
}

/// Checks a file against what the xUnit plugin of Jenkins accepts as JUnit.
///
/// # Errors
/// With what is wrong with it.
pub fn junit(file: &Path) -> Result<()> {
    run(xmllint()?.arg("--noout").arg("--schema").arg(schema("junit-10.xsd")).arg(file)).map(drop)
}

/// What an XPath expression gives for a file, as text.
///
/// # Errors
/// If it gives nothing, or the file is no XML.
pub fn xpath(file: &Path, expression: &str) -> Result<String> {
    Ok(run(xmllint()?.arg("--xpath").arg(expression).arg(file))?.trim_end_matches('\n').to_owned())
}

fn xmllint() -> Result<Command> {
    Ok(Command::new(Requirement::Xmllint.program().context("xmllint")?))
}

fn schema(name: &str) -> PathBuf {
    workspace().join("tests/golden/schemas").join(name)
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{:?}: {}\n{said}", command.get_program(), output.status);
    Ok(String::from_utf8(output.stdout)?)
}
