//! The programs: what each is prepared with, how it writes what is there already, and how it writes something else.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use driftlock_tests::drift::Drift;
use driftlock_tests::require::Requirement;
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tree::Tree;

/// A program that writes files.
pub(super) struct Tool {
    pub(super) name: &'static str,
    pub(super) needs: &'static [Requirement],
    /// The sealed files that it writes.
    pub(super) paths: &'static [&'static str],
    pub(super) writes: Writes,
    /// Makes what is sealed, and what it will be run with.
    pub(super) prepare: fn(&Sandbox, &Tree) -> Result<()>,
    /// Writes what is there already.
    pub(super) same: fn(&Sandbox, &Tree) -> Result<()>,
    /// Writes something else, and says what differs then.
    pub(super) other: fn(&Sandbox, &Tree) -> Result<Vec<Drift>>,
}

/// How it comes to the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writes {
    /// Under another name, renamed over it: nobody ever finds anything else there.
    Beside,
    /// There, so that for a moment it is cut off or gone.
    There,
}

const FILE: &str = "etc/app.toml";
const ONE: &str = "level = 1\nmore = true\n";
const TWO: &str = "level = 2\nmore = true\n";

/// A program that is given one file, and what it is to hold.
const fn writer(
    name: &'static str,
    writes: Writes,
    same: Act,
    other: fn(&Sandbox, &Tree) -> Result<Vec<Drift>>,
) -> Tool {
    Tool { name, needs: &[], paths: &[FILE], writes, prepare: files, same, other }
}

type Act = fn(&Sandbox, &Tree) -> Result<()>;

pub(super) const TOOLS: &[Tool] = &[
    writer(
        "sed_in_place",
        Writes::Beside,
        |sandbox, tree| run(sandbox, "sed", &["-i", "s/level/level/", &path(tree, FILE)]),
        |sandbox, tree| {
            run(sandbox, "sed", &["-i", "s/level = 1/level = 2/", &path(tree, FILE)])?;
            changed(&["content"])
        },
    ),
    Tool {
        needs: &[Requirement::Vim],
        ..writer(
            "vim",
            Writes::There,
            |sandbox, tree| vim(sandbox, tree, "%s/level/level/"),
            |sandbox, tree| {
                vim(sandbox, tree, "%s/1/2/")?;
                changed(&["content"])
            },
        )
    },
    writer(
        "cp_over",
        Writes::There,
        |sandbox, tree| run(sandbox, "cp", &["-a", &source(sandbox, "one"), &path(tree, FILE)]),
        |sandbox, tree| {
            run(sandbox, "cp", &["-a", &source(sandbox, "two-private"), &path(tree, FILE)])?;
            changed(&["content", "mode"])
        },
    ),
    writer(
        "install",
        Writes::There,
        |sandbox, tree| run(sandbox, "install", &["-m", "644", &source(sandbox, "one"), &path(tree, FILE)]),
        |sandbox, tree| {
            run(sandbox, "install", &["-m", "4755", &source(sandbox, "two"), &path(tree, FILE)])?;
            changed(&["content", "mode"])
        },
    ),
    writer(
        "mv_over",
        Writes::Beside,
        |sandbox, tree| run(sandbox, "mv", &[&source(sandbox, "one"), &path(tree, FILE)]),
        |sandbox, tree| {
            run(sandbox, "mv", &[&source(sandbox, "two"), &path(tree, FILE)])?;
            changed(&["content"])
        },
    ),
    writer(
        "removed_and_made_again",
        Writes::There,
        |sandbox, tree| shell(sandbox, &format!("rm {0} && cp source/one {0}", path(tree, FILE))),
        |sandbox, tree| {
            shell(sandbox, &format!("rm {0} && cp source/two {0}", path(tree, FILE)))?;
            changed(&["content"])
        },
    ),
    writer(
        "python_replace",
        Writes::Beside,
        |sandbox, tree| python(sandbox, tree, "one"),
        |sandbox, tree| {
            python(sandbox, tree, "two")?;
            changed(&["content"])
        },
    ),
    Tool {
        needs: &[Requirement::Rsync],
        ..writer(
            "rsync",
            Writes::Beside,
            |sandbox, tree| rsync(sandbox, tree, &[], "one"),
            |sandbox, tree| {
                rsync(sandbox, tree, &[], "two")?;
                changed(&["content"])
            },
        )
    },
    Tool {
        needs: &[Requirement::Rsync],
        ..writer(
            "rsync_in_place",
            Writes::There,
            |sandbox, tree| rsync(sandbox, tree, &["--inplace"], "one"),
            |sandbox, tree| {
                rsync(sandbox, tree, &["--inplace"], "two")?;
                changed(&["content"])
            },
        )
    },
    Tool {
        name: "tar_over",
        needs: &[],
        paths: &[FILE, "bin/app"],
        writes: Writes::There,
        prepare: |sandbox, tree| {
            files(sandbox, tree)?;
            run(sandbox, "tar", &["-C", &path(tree, ""), "-cf", "one.tar", "etc", "bin"])?;
            shell(sandbox, &format!("cp -a {} two && cp source/two two/{FILE} && touch two/bin/more", path(tree, "")))?;
            run(sandbox, "tar", &["-C", "two", "-cf", "two.tar", "etc", "bin"])
        },
        same: |sandbox, tree| run(sandbox, "tar", &["-C", &path(tree, ""), "-xpf", "one.tar"]),
        other: |sandbox, tree| {
            run(sandbox, "tar", &["-C", &path(tree, ""), "-xpf", "two.tar"])?;
            Ok(vec![Drift::changed(FILE, &["content"]), Drift::added("bin/more")])
        },
    },
    Tool {
        name: "git_checkout",
        needs: &[Requirement::Git],
        paths: &[FILE, "bin/app"],
        writes: Writes::There,
        prepare: |sandbox, tree| {
            files(sandbox, tree)?;
            let tree = path(tree, "");
            git(sandbox, &["init", "-q", "--bare", "repository"])?;
            git(sandbox, &["--git-dir=repository", "config", "core.bare", "false"])?;
            shell(sandbox, &format!("cp -a {tree} work && cp source/two work/{FILE} && touch work/bin/more"))?;
            // The second state first, so that the first one is what is checked out.
            for (work, branch) in [("work", "two"), (tree.as_str(), "one")] {
                work_tree(sandbox, work, &["checkout", "-q", "--orphan", branch])?;
                work_tree(sandbox, work, &["add", "-A"])?;
                work_tree(sandbox, work, &["commit", "-q", "-m", branch])?;
            }
            Ok(())
        },
        same: |sandbox, tree| work_tree(sandbox, &path(tree, ""), &["checkout-index", "--force", "--all"]),
        other: |sandbox, tree| {
            work_tree(sandbox, &path(tree, ""), &["checkout", "-q", "two"])?;
            Ok(vec![Drift::changed(FILE, &["content"]), Drift::added("bin/more")])
        },
    },
    Tool {
        name: "logrotate",
        needs: &[Requirement::Logrotate],
        paths: &["var/log/app.log"],
        writes: Writes::There,
        prepare: |sandbox, tree| {
            tree.file("var/log/app.log", "a line\n")?;
            let rules =
                format!("{} {{\n size 1k\n rotate 2\n create 0644 root root\n}}\n", path(tree, "var/log/app.log"));
            sandbox.write("rotate.conf", rules)?;
            Ok(())
        },
        // It is not time yet.
        same: |sandbox, _| run(sandbox, "logrotate", &["-s", "rotate.state", "rotate.conf"]),
        other: |sandbox, _| {
            run(sandbox, "logrotate", &["-f", "-s", "rotate.state", "rotate.conf"])?;
            Ok(vec![Drift::changed("var/log/app.log", &["content"]), Drift::added("var/log/app.log.1")])
        },
    },
    Tool {
        name: "dpkg",
        needs: &[Requirement::Root, Requirement::DpkgDeb],
        paths: &["usr/bin/app", "usr/share/app/text"],
        writes: Writes::Beside,
        prepare: |sandbox, tree| {
            for (version, program) in [("1", "one"), ("2", "two")] {
                let at = format!("app-{version}");
                let control = format!(
                    "Package: app\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\n\
                     Description: an application\n"
                );
                sandbox.write(format!("{at}/DEBIAN/control"), control)?;
                sandbox.write(format!("{at}/usr/bin/app"), program)?;
                sandbox.write(format!("{at}/usr/share/app/text"), "the same in both\n")?;
                if version == "2" {
                    sandbox.write(format!("{at}/usr/share/app/more/new"), "new\n")?;
                }
                shell(sandbox, &format!("chmod -R u=rwX,go=rX {at} && chmod 755 {at}/usr/bin/app"))?;
                run(sandbox, "dpkg-deb", &["--root-owner-group", "-b", &at, &format!("{at}.deb")])?;
            }
            shell(sandbox, "mkdir -p dpkg/info dpkg/updates && touch dpkg/status dpkg/available")?;
            dpkg(sandbox, tree, "app-1.deb")
        },
        same: |sandbox, tree| dpkg(sandbox, tree, "app-1.deb"),
        other: |sandbox, tree| {
            dpkg(sandbox, tree, "app-2.deb")?;
            let changed = Drift::changed("usr/bin/app", &["content"]);
            Ok(vec![changed, Drift::added("usr/share/app/more"), Drift::added("usr/share/app/more/new")])
        },
    },
];

/// The sealed files, and others to take from.
fn files(sandbox: &Sandbox, tree: &Tree) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    tree.file(FILE, ONE)?.file("bin/app", "program\n")?.mode("bin/app", 0o755)?;
    for (name, content, mode) in [("one", ONE, 0o644), ("two", TWO, 0o644), ("two-private", TWO, 0o600)] {
        let file = sandbox.write(format!("source/{name}"), content)?;
        fs::set_permissions(file, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn changed(attributes: &[&str]) -> Result<Vec<Drift>> {
    Ok(vec![Drift::changed(FILE, attributes)])
}

fn path(tree: &Tree, path: &str) -> String {
    tree.path(path).display().to_string()
}

fn source(sandbox: &Sandbox, name: &str) -> String {
    sandbox.path("source").join(name).display().to_string()
}

fn run(sandbox: &Sandbox, program: &str, arguments: &[&str]) -> Result<()> {
    sandbox.command(Path::new(program), arguments).run()?.expect(0).map(drop)
}

fn shell(sandbox: &Sandbox, script: &str) -> Result<()> {
    run(sandbox, "sh", &["-ec", script])
}

/// With a swap file and a backup, as it is by default.
fn vim(sandbox: &Sandbox, tree: &Tree, edit: &str) -> Result<()> {
    let vim = Requirement::Vim.program().context("vim")?;
    let file = path(tree, FILE);
    let arguments = ["-u", "NONE", "-e", "-s", "-c", edit, "-c", "wq", &file];
    sandbox.command(&vim, arguments).run()?.expect(0).map(drop)
}

/// As programs do that know how.
fn python(sandbox: &Sandbox, tree: &Tree, name: &str) -> Result<()> {
    const REPLACE: &str = "import os, sys, tempfile\n\
        source, target = sys.argv[1:]\n\
        with tempfile.NamedTemporaryFile(dir=os.path.dirname(target), delete=False) as new:\n    \
            new.write(open(source, 'rb').read())\n    \
            os.fchmod(new.fileno(), 0o644)\n    \
            os.fsync(new.fileno())\n\
        os.replace(new.name, target)\n";
    run(sandbox, "python3", &["-c", REPLACE, &source(sandbox, name), &path(tree, FILE)])
}

/// Without looking at sizes and times, which would be reason enough to do nothing.
fn rsync(sandbox: &Sandbox, tree: &Tree, more: &[&str], name: &str) -> Result<()> {
    let (source, target) = (source(sandbox, name), path(tree, FILE));
    run(sandbox, "rsync", &[&["-a", "--ignore-times"], more, &[source.as_str(), target.as_str()]].concat())
}

fn git(sandbox: &Sandbox, arguments: &[&str]) -> Result<()> {
    let who = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"];
    run(sandbox, "git", &[&who, arguments].concat())
}

fn work_tree(sandbox: &Sandbox, work: &str, arguments: &[&str]) -> Result<()> {
    let work = format!("--work-tree={work}");
    git(sandbox, &[&["--git-dir=repository", work.as_str()], arguments].concat())
}

/// Its own records lie beside the tree: they change whatever it does.
fn dpkg(sandbox: &Sandbox, tree: &Tree, package: &str) -> Result<()> {
    let (root, records) =
        (format!("--instdir={}", path(tree, "")), format!("--admindir={}", sandbox.path("dpkg").display()));
    run(sandbox, "dpkg", &[&root, &records, "--log=/dev/null", "-i", package])
}
