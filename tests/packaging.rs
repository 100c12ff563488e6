//! What is packed beside the programs is true: the manual pages and the shell's completions have
//! every option, the copyright file every crate that is linked, and none of the crates asks for a
//! later Rust than this project does. Each file is in one Debian package, the one that is named for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A program, with all that tells of its options.
struct Told {
    help: String,
    page: String,
    completion: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn programs() -> [Told; 3] {
    [
        (env!("CARGO_BIN_EXE_ganeti-kvmd"), "ganeti-kvmd", 8),
        (env!("CARGO_BIN_EXE_kvmd-why"), "kvmd-why", 8),
        (env!("CARGO_BIN_EXE_kvmd-run"), "kvmd-run", 1),
    ]
    .map(|(path, name, section)| {
        let output = Command::new(path).arg("--help").output().unwrap();
        Told {
            help: String::from_utf8(output.stdout).unwrap(),
            page: read(&format!("packaging/man/{name}.{section}")),
            completion: read(&format!("packaging/completions/{name}")),
        }
    })
}

/// The options as they begin a line of the help: `-f`, `--foreground`.
fn options_of_help(help: &str) -> BTreeSet<String> {
    let begins = |line: &&str| line.starts_with("  -") || line.starts_with("      --");
    help.lines().filter(begins).flat_map(options_in).collect()
}

/// The options that begin a line's words, without their values.
fn options_in(line: &str) -> Vec<String> {
    line.split_whitespace()
        .take_while(|word| word.starts_with('-'))
        .map(|word| word.trim_end_matches(',').split('=').next().unwrap_or_default().to_string())
        .collect()
}

/// The options that have an entry of their own in the page: `.It Fl s , -since Ns = Ns Ar WHEN`.
fn options_of_page(page: &str) -> BTreeSet<String> {
    page.lines()
        .filter_map(|line| line.strip_prefix(".It Fl "))
        .flat_map(|entry| {
            let names = entry.split(" Ns ").next().unwrap_or_default().split(" , ");
            names.map(|name| format!("-{}", name.trim())).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn the_manual_pages_have_the_options_of_the_help_and_no_others() {
    for Told { help, page, .. } in programs() {
        let options = options_of_help(&help);
        assert!(options.len() > 10, "{help}");
        assert_eq!(options, options_of_page(&page));
    }
}

#[test]
fn the_completions_have_the_options_of_the_help() {
    for Told { help, completion, .. } in programs() {
        let words: BTreeSet<&str> =
            completion.split([' ', '\n', '\'']).map(|word| word.trim_end_matches('=')).collect();
        for option in options_of_help(&help) {
            assert!(words.contains(&*option), "{option} is not completed");
        }
    }
}

/// Every name of a cause: those of the table, and the reasons that QEMU gives.
fn causes() -> BTreeSet<String> {
    let cause = read("src/verdict/cause.rs");
    let names = cause.split("fn name(&self)").nth(1).unwrap().split("fn kind(").next().unwrap();
    let qmp = read("src/wire/qmp/mod.rs");
    let reasons = qmp.split("const NAMES").nth(1).unwrap().split("];").next().unwrap();
    let quoted = |text: &str| -> Vec<String> {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("///"));
        code.collect::<Vec<_>>()
            .join("\n")
            .split('"')
            .skip(1)
            .step_by(2)
            .map(ToString::to_string)
            .collect()
    };
    let mut causes: BTreeSet<String> = quoted(names).into_iter().collect();
    causes.extend(quoted(reasons));
    // QEMU's word for no reason at all.
    causes.remove("none");
    causes
}

#[test]
fn the_manual_pages_and_the_completions_have_every_cause() {
    let causes = causes();
    assert!(causes.contains("out-of-memory") && causes.contains("host-qmp-quit"), "{causes:?}");
    let [daemon, why, run] = programs();
    for cause in &causes {
        for (place, text) in [
            ("ganeti-kvmd(8)", &daemon.page),
            ("kvmd-why(8)", &why.page),
            ("its completion", &why.completion),
            ("kvmd-run(1)", &run.page),
            ("its completion", &run.completion),
        ] {
            let has = text.split([' ', ',', '\n', '\'']).any(|word| word == cause);
            assert!(has, "{cause} is not in {place}");
        }
    }
}

/// What cargo knows of all crates that can be built here.
fn metadata() -> Value {
    let platform = "--filter-platform=x86_64-unknown-linux-gnu";
    let metadata = cargo(&["metadata", "--locked", "--format-version=1", platform]);
    serde_json::from_slice(&metadata).unwrap()
}

fn cargo(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn entries<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

#[test]
fn no_crate_asks_for_a_later_rust() {
    let number = |version: &str| -> Vec<u32> {
        version.split('.').map(|part| part.parse().unwrap()).collect()
    };
    let ours = number(env!("CARGO_PKG_RUST_VERSION"));
    for package in entries(&metadata(), "packages") {
        let asked = text(package, "rust_version");
        assert!(
            asked.is_empty() || number(asked) <= ours,
            "{} {} asks for Rust {asked}",
            text(package, "name"),
            text(package, "version")
        );
    }
}

#[test]
fn every_crate_is_from_the_registry_and_linked_once() {
    let metadata = metadata();
    for package in entries(&metadata, "packages") {
        let source = &package["source"];
        assert!(
            source.is_null() || source.as_str().is_some_and(|url| url.contains("crates.io-index")),
            "{} comes from {source}",
            text(package, "name")
        );
    }
    let names: Vec<&str> = linked(&metadata).iter().map(|package| text(package, "name")).collect();
    assert!(names.len() > 20, "{names:?}");
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "two versions of one: {names:?}");
}

/// The crates of others that end up in the programs: no build scripts, no macros, no tests.
fn linked(metadata: &Value) -> Vec<&Value> {
    let tree = cargo(&[
        "tree",
        "--locked",
        "--package=ganeti-kvmd",
        "--edges=normal,no-proc-macro",
        "--target=x86_64-unknown-linux-gnu",
        "--prefix=none",
        "--format={p}",
    ]);
    let tree = String::from_utf8(tree).unwrap();
    // NAME vVERSION [(DIRECTORY)] [(*)]
    let linked: BTreeSet<(&str, &str)> = tree
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?.strip_prefix('v')?))
        })
        .collect();
    let mut packages: Vec<&Value> = entries(metadata, "packages")
        .iter()
        .filter(|package| package["source"].is_string())
        .filter(|package| linked.contains(&(text(package, "name"), text(package, "version"))))
        .collect();
    packages.sort_by_key(|package| text(package, "name"));
    packages
}

/// Under which of its licences a crate is taken, by the name that Debian has for it.
fn licence(package: &Value) -> &'static str {
    let offered: Vec<&str> = text(package, "license").split(" OR ").collect();
    let known = [("MIT", "Expat"), ("ISC", "ISC"), ("BSD-3-Clause", "BSD-3-Clause")];
    let taken = known.into_iter().find(|(name, _)| offered.contains(name));
    taken.map_or_else(|| panic!("{}: {offered:?}", text(package, "name")), |(_, name)| name)
}

/// Who holds the copyright: as the crate's licence files say, or its authors.
fn holders(package: &Value) -> Vec<String> {
    let directory = PathBuf::from(text(package, "manifest_path"));
    let directory = directory.parent().unwrap();
    let mut holders = BTreeSet::new();
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        if !(name.starts_with("LICEN") || name.starts_with("COPY")) || !path.is_file() {
            continue;
        }
        for line in String::from_utf8_lossy(&fs::read(&path).unwrap()).lines() {
            let Some(holder) = line.trim().strip_prefix("Copyright ") else { continue };
            let holder = holder.trim_start_matches("(c) ").trim_start_matches("(C) ");
            // Else a sentence about copyrights, or a form that is not filled in.
            if holder.starts_with(|c: char| c.is_ascii_digit() || c.is_uppercase()) {
                let holder = holder.trim_end_matches(" All rights reserved.").trim();
                holders.insert(match holder.split_once(", ") {
                    Some((year, name)) if year.parse::<u32>().is_ok() => format!("{year} {name}"),
                    _ => holder.to_string(),
                });
            }
        }
    }
    if holders.is_empty() {
        let authors = entries(package, "authors").iter().filter_map(Value::as_str);
        holders.extend(authors.map(ToString::to_string));
    }
    if holders.is_empty() {
        holders.insert(format!("the authors of {}", text(package, "name")));
    }
    holders.into_iter().collect()
}

/// The paragraphs of those crates, in the form of Debian's copyright files.
fn paragraphs(metadata: &Value) -> String {
    let mut groups: BTreeMap<(Vec<String>, &str), Vec<&str>> = BTreeMap::new();
    for package in linked(metadata) {
        let name = text(package, "name");
        groups.entry((holders(package), licence(package))).or_default().push(name);
    }
    let mut groups: Vec<_> = groups.into_iter().map(|(key, names)| (names, key)).collect();
    groups.sort();
    let mut paragraphs = String::new();
    for (names, (holders, licence)) in groups {
        let files: Vec<String> = names.iter().map(|name| format!("{name}/*")).collect();
        let _ = write!(
            paragraphs,
            "Files: {}\nCopyright: {}\nLicense: {licence}\n\n",
            files.join("\n "),
            holders.join("\n ")
        );
    }
    paragraphs
}

/// `UPDATE_COPYRIGHT=1 cargo test --test packaging` writes it anew.
#[test]
fn the_copyright_file_has_every_crate_that_is_linked() {
    const BEGIN: &str = "# Crates, by tests/packaging.rs:\n\n";
    const END: &str = "# Licences:\n";
    let path = "packaging/debian/copyright";
    let old = read(path);
    let (head, rest) = old.split_once(BEGIN).unwrap();
    let (_, tail) = rest.split_once(END).unwrap();
    let new = format!("{head}{BEGIN}{}{END}{tail}", paragraphs(&metadata()));
    if std::env::var_os("UPDATE_COPYRIGHT").is_some() {
        fs::write(root().join(path), &new).unwrap();
    } else {
        assert!(new == old, "{path} is not up to date: UPDATE_COPYRIGHT=1 writes it anew");
    }
}

/// What a document names in backquotes as a file or a directory of this repository.
fn paths_in(document: &str) -> Vec<&str> {
    const ROOMS: [&str; 7] =
        ["src/", "tests/", "examples/", "packaging/", "docs/", "fuzz/", "bpf/"];
    let quoted = document.split('`').skip(1).step_by(2);
    quoted
        .filter(|text| ROOMS.iter().any(|room| text.starts_with(room)))
        // A command line, or a pattern.
        .map(|text| text.split(' ').next().unwrap_or(text))
        .filter(|path| !path.contains(['*', '{']) && !path.chars().any(char::is_uppercase))
        .collect()
}

#[test]
fn every_path_that_a_document_names_is_there() {
    let documents = [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "docs/architecture.md",
        "docs/fleet.md",
        "fuzz/README.md",
        "bpf/README.md",
        "tests/compliance/DEVIATIONS.md",
    ];
    let mut gone = String::new();
    for document in documents {
        let text = read(document);
        for path in paths_in(&text) {
            // A document names what is beside it, too.
            let beside = Path::new(document).parent().unwrap().join(path);
            if !root().join(path).exists() && !root().join(beside).exists() {
                let _ = writeln!(gone, "{document}: {path}");
            }
        }
    }
    assert!(gone.is_empty(), "these are not there (any more):\n{gone}");
}

/// The Debian packages: name, and what packaging/debian/control says of it.
fn packages() -> BTreeMap<String, String> {
    let control = read("packaging/debian/control");
    let of_package = |paragraph: &str| {
        let name = paragraph.trim_start().strip_prefix("Package: ")?.lines().next()?;
        Some((name.to_string(), paragraph.to_string()))
    };
    control.split("\n\n").filter_map(of_package).collect()
}

/// What a package has by one of its lists, `install` or `manpages` or `examples`: paths below packaging/,
/// and programs by their names.
fn listed(package: &str, list: &str) -> Vec<String> {
    let path = root().join(format!("packaging/debian/{package}.{list}"));
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').next()).map(ToString::to_string).collect()
}

/// Two packages that have the same file cannot be installed side by side.
#[test]
fn every_program_page_completion_and_catalog_is_in_one_package() {
    let mut packed: Vec<String> = Vec::new();
    for package in packages().keys() {
        packed.extend(listed(package, "install"));
        packed.extend(listed(package, "manpages"));
    }
    packed.sort();
    let mut there = ["ganeti-kvmd", "kvmd-run", "kvmd-why"].map(ToString::to_string).to_vec();
    there.extend(["before-start", "before-stop"].map(ToString::to_string));
    for directory in ["completions", "journal", "man"] {
        let files = fs::read_dir(root().join("packaging").join(directory)).unwrap();
        let name = |file: fs::DirEntry| file.file_name().into_string().unwrap();
        there.extend(files.map(|file| format!("{directory}/{}", name(file.unwrap()))));
    }
    there.sort();
    assert_eq!(packed, there);
}

/// Who runs kvmd-run without Ganeti can have both, and whoever looks into records from elsewhere needs
/// nothing that runs virtual machines.
#[test]
fn kvmd_why_and_kvmd_run_depend_on_nothing_but_what_they_are_linked_with() {
    let packages = packages();
    for name in ["kvmd-why", "kvmd-run"] {
        let control = packages.get(name).unwrap_or_else(|| panic!("there is no package {name}"));
        let depends = control.lines().find_map(|line| line.strip_prefix("Depends: "));
        assert_eq!(depends, Some("${misc:Depends}, ${shlibs:Depends}"), "{name}");
    }
}

/// What a package has in its directory of examples.
fn examples(package: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in listed(package, "examples") {
        let path = root().join("packaging").join(&entry);
        let paths: Vec<PathBuf> = if path.ends_with("*") {
            let files = fs::read_dir(path.parent().unwrap()).unwrap();
            files.map(|file| file.unwrap().path()).collect()
        } else {
            vec![path]
        };
        names.extend(paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap().into()));
    }
    names
}

#[test]
fn every_example_that_a_manual_page_names_is_in_the_package_that_it_names() {
    const DOC: &str = "/usr/share/doc/";
    let mut checked = 0;
    for Told { page, .. } in programs() {
        for rest in page.split(DOC).skip(1) {
            let path = rest.split_whitespace().next().unwrap_or_default();
            let (package, below) = path.split_once("/examples").expect("it is an example");
            let examples = examples(package);
            let is_there = match below.split('/').nth(1) {
                None => !examples.is_empty(),
                Some(name) => examples.contains(name),
            };
            assert!(is_there, "{DOC}{path} is not packed");
            checked += 1;
        }
    }
    assert!(checked > 0, "no manual page names an example any more");
}
