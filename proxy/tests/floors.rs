//! The proxy is a house of floors (ARCHITECTURE.md): a file imports what is on its own floor or below, and no two files
//! import each other, on however long a way. Read from the sources' own `use` and paths; what is for tests is left out.
#![expect(clippy::unwrap_used, reason = "a test says enough by failing there")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The floors of the crate, from the top.
const CRATE: [&str; 31] = [
    "fuzz",
    "bootstrap",
    "admin",
    "dynamic",
    "xds",
    "intake",
    "worker",
    "listener",
    "http",
    "tcp",
    "cluster",
    "downstream",
    "overload",
    "config",
    "access_log",
    "tls",
    "wire",
    "pod",
    "cel",
    "jwt",
    "matcher",
    "filter_state",
    "options",
    "lifecycle",
    "drain",
    "runtime",
    "telemetry",
    "memory",
    "queue",
    "linger",
    "view",
];

/// The floors of `http`, from the top.
const HTTP: [&str; 11] =
    ["fuzz", "connection", "dispatch", "router", "filter", "call", "stream", "pool", "body", "headers", "codec"];

/// What the connections of a worker share stands between the pool, which it holds, and the streams, which hold it.
const SHARED: &str = "worker::state";

type Module = Vec<String>;

/// Every module with the modules that it imports.
fn imports() -> BTreeMap<Module, BTreeSet<Module>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = BTreeMap::new();
    read(&root, &mut Vec::new(), &mut sources);
    let modules: BTreeSet<Module> = sources.keys().cloned().collect();
    let imported = |module: &Module, source: &str| {
        let absolute = paths(source).into_iter().filter_map(|path| absolute(module, &path, &modules));
        absolute.filter(|target| target != module).collect()
    };
    sources.iter().map(|(module, source)| (module.clone(), imported(module, source))).collect()
}

fn read(directory: &Path, module: &mut Module, sources: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if path.is_dir() {
            module.push(name);
            read(&path, module, sources);
            module.pop();
        } else if let Some(name) = name.strip_suffix(".rs").filter(|name| !name.contains("test") && *name != "corpus") {
            let mut module = module.clone();
            if !["mod", "lib", "main"].contains(&name) {
                module.push(name.to_owned());
            }
            sources.entry(module).or_default().push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// The paths that a source names: each `use`, taken apart, and each path in the rest that begins at the crate.
fn paths(source: &str) -> Vec<Vec<String>> {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let source: String =
        source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let mut paths = Vec::new();
    for statement in source.split(';') {
        let begin = statement.trim_start();
        let start = match begin.strip_prefix("pub").and_then(|public| public.split_once(" use ")) {
            // `pub use`, `pub(crate) use`, `pub(in crate::http) use`.
            Some((visibility, tree)) if visibility.is_empty() || visibility.ends_with(')') => Some(tree),
            _ => begin.strip_prefix("use "),
        };
        match start {
            Some(tree) => take_apart(&[], tree, &mut paths),
            None => paths.extend(statement.match_indices("crate::").filter(|(at, _)| is_path(&statement[..*at])).map(
                |(at, _)| {
                    let end = statement[at..].find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
                    let path = &statement[at..end.map_or(statement.len(), |end| at + end)];
                    path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect()
                },
            )),
        }
    }
    paths
}

/// Neither a macro's `$crate::` nor `pub(in crate::http)`.
fn is_path(before: &str) -> bool {
    !before.ends_with('$') && !before.ends_with("in ")
}

/// `a::{b, c::{d, self}}` as `a::b`, `a::c::d`, `a::c`.
fn take_apart(prefix: &[String], tree: &str, paths: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    let Some((base, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default().split("::").map(|part| part.trim().to_owned());
        paths.push(prefix.iter().cloned().chain(path.filter(|part| part != "self" || prefix.is_empty())).collect());
        return;
    };
    let base = base.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned);
    let prefix: Vec<String> = prefix.iter().cloned().chain(base).collect();
    let rest = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut begin) = (0, 0);
    for (at, c) in rest.char_indices().chain([(rest.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !rest[begin..at].trim().is_empty() {
                    take_apart(&prefix, &rest[begin..at], paths);
                }
                begin = at + 1;
            }
            _ => {}
        }
    }
}

/// The module that a path leads to; none: it leads out of the crate, or to what the crate's root only hands on.
fn absolute(module: &Module, path: &[String], modules: &BTreeSet<Module>) -> Option<Module> {
    let supers = path.iter().take_while(|part| *part == "super").count();
    let mut whole = match path.first()?.as_str() {
        "crate" => path[1..].to_vec(),
        "self" => [module, &path[1..]].concat(),
        "super" => [&module[..module.len() - supers], &path[supers..]].concat(),
        _ => [module, path].concat(),
    };
    let relative = !["crate", "self", "super"].contains(&path[0].as_str());
    while !whole.is_empty() && !modules.contains(&whole) {
        whole.pop();
    }
    // A name without a prefix that is no module of this one is of another crate, or made here.
    let found = !whole.is_empty() && (!relative || whole != *module);
    found.then_some(whole)
}

fn name(module: &[String]) -> String {
    module.join("::")
}

fn floor(floors: &[&str], module: &[String], depth: usize) -> Option<usize> {
    let floor = module.get(depth)?;
    let found = floors.iter().position(|known| known == floor);
    Some(found.unwrap_or_else(|| panic!("{} is on no floor: give it one here", name(module))))
}

#[test]
fn imports_lead_downwards() {
    let mut upwards = Vec::new();
    for (module, targets) in imports() {
        for target in targets {
            let pair = [&module, &target];
            if pair.iter().any(|module| name(module) == SHARED) {
                continue;
            }
            let of = |floors: &[&str], depth| pair.map(|module| floor(floors, module, depth));
            let up = match of(&CRATE, 0) {
                [Some(from), Some(to)] if from == to && module[0] == "http" => of(&HTTP, 1),
                floors => floors,
            };
            if matches!(up, [Some(from), Some(to)] if to < from) {
                upwards.push(format!("{} -> {}", name(&module), name(&target)));
            }
        }
    }
    assert!(upwards.is_empty(), "imports that lead upwards:\n{}", upwards.join("\n"));
}

#[test]
fn no_two_files_import_each_other() {
    let mut imports = imports();
    assert!(imports.len() > 200, "the sources were not found");
    // What imports nothing that is left, or is imported by nothing, is in no circle.
    loop {
        let imported: BTreeSet<Module> = imports.values().flatten().cloned().collect();
        let before = imports.len();
        imports.retain(|module, targets| !targets.is_empty() && imported.contains(module));
        let left: BTreeSet<Module> = imports.keys().cloned().collect();
        imports.values_mut().for_each(|targets| targets.retain(|target| left.contains(target)));
        if imports.len() == before {
            break;
        }
    }
    let left: Vec<_> = imports
        .iter()
        .map(|(module, targets)| {
            format!("{} -> {}", name(module), targets.iter().map(|target| name(target)).collect::<Vec<_>>().join(", "))
        })
        .collect();
    assert!(left.is_empty(), "files in circles, and those between:\n{}", left.join("\n"));
}
