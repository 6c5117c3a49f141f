//! A case file from start to end: both proxies started, every case run on both, what they show compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use regex::Regex;
use tokio::{process::Command, time::Instant};

use super::{
    case::{After, Case, Configuration, File},
    certificates,
    side::{Side, Which},
    steps::{self, Shown},
};

/// How long stats may take to agree.
const AGREE: Duration = Duration::from_secs(10);
/// How often a case that depends on the clock is done until both sides agree.
const TRIES: usize = 4;
/// A side lacks what the other shows.
const ABSENT: &str = "(absent)";

/// What comparing gave.
#[derive(Debug, Default)]
pub struct Tally {
    /// Things compared and found equal.
    pub equal: usize,
    /// Things that differ on purpose, as documented.
    pub deliberate: usize,
    /// Rows of the table of differences that were met.
    pub met: BTreeSet<String>,
    /// What is wrong.
    pub failures: Vec<String>,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.equal += other.equal;
        self.deliberate += other.deliberate;
        self.met.extend(other.met);
        self.failures.extend(other.failures);
    }

    /// Compares one thing.
    fn compare(&mut self, case: &str, what: &str, envoy: &str, weir: &str, after: &After) {
        if SHOW.load(Ordering::Relaxed) {
            println!("    {case}: {what}: {envoy:?}");
        }
        let deliberate = after.differs.iter().find(|difference| what.ends_with(&difference.what));
        match deliberate {
            Some(difference) if envoy == weir => self.failures.push(format!(
                "{case}: {what}: no longer differs; take the entry `{}` out. Both: {envoy:?}",
                difference.id
            )),
            Some(difference) if weir.contains(&difference.weir) => {
                self.deliberate += 1;
                self.met.insert(difference.id.clone());
            }
            Some(difference) => self.failures.push(format!(
                "{case}: {what}: differs as `{}` says, but weir's does not contain {:?}: {weir:?}",
                difference.id, difference.weir
            )),
            None if envoy == weir => self.equal += 1,
            None => self.failures.push(format!("{case}: {what}\n{}", shown(envoy, weir))),
        }
    }
}

/// Two texts, without the lines that they share if they are long.
fn shown(envoy: &str, weir: &str) -> String {
    let (theirs, ours): (Vec<_>, Vec<_>) = (envoy.lines().collect(), weir.lines().collect());
    let missing = theirs.iter().filter(|line| !ours.contains(line)).map(|line| format!("      envoy: {line}\n"));
    let added = ours.iter().filter(|line| !theirs.contains(line)).map(|line| format!("      weir:  {line}\n"));
    let text: String = missing.chain(added).collect();
    match text.is_empty() {
        true => format!("      envoy: {envoy:?}\n      weir:  {weir:?}\n"),
        false => text,
    }
}

/// Whether everything that is compared is printed too.
pub static SHOW: AtomicBool = AtomicBool::new(false);

/// Runs a case file.
pub async fn run(name: &str, file: &File, only: Option<&str>) -> Tally {
    let mut tally = Tally::default();
    let root = tempfile::tempdir().expect("a directory");
    let certificates = root.path().join("certificates");
    certificates::make(&file.certificates, &certificates);
    let prepare = |which| Side::prepare(which, file, root.path(), &certificates);
    let (mut envoy, mut weir) = (prepare(Which::Envoy), prepare(Which::Weir));
    let wanted = |case: &str| only.is_none_or(|only| case.contains(only));
    for configuration in file.configurations.iter().filter(|configuration| wanted(&configuration.name)) {
        configured(&mut tally, name, file, configuration, [&envoy, &weir]).await;
    }
    let cases: Vec<_> = file.cases.iter().filter(|case| wanted(&case.name)).collect();
    if cases.is_empty() {
        return tally;
    }
    tokio::join!(envoy.start(file), weir.start(file));
    let mut apart = Apart::default();
    for case in cases {
        let label = format!("{name}: {}", case.name);
        let mut tries = if file.timed { TRIES } else { 1 };
        tally.add(loop {
            let mut tally = Tally::default();
            apart.settle(&envoy, &weir).await;
            let (theirs, ours) = tokio::join!(steps::run(&envoy, file, case), steps::run(&weir, file, case));
            apart.settle(&envoy, &weir).await;
            let (theirs, ours) = tokio::join!(theirs.shown(case), ours.shown(case));
            shown_alike(&mut tally, &label, case, theirs, ours);
            if !case.after.stats.is_empty() {
                stats_alike(&mut tally, &label, case, &envoy, &weir).await;
            }
            tries -= 1;
            if tally.failures.is_empty() || tries == 0 {
                break tally;
            }
        });
    }
    for side in [&mut envoy, &mut weir] {
        if let Some(log) = side.stop() {
            tally.failures.push(format!("{name}: {:?} has ended by itself: {log}", side.which));
        }
    }
    tally
}

/// By how many connections, of those that ended at TCP upstreams, Envoy is ahead of weir.
#[derive(Default)]
struct Apart(BTreeMap<String, isize>);

impl Apart {
    /// An end that one side has seen the other gets some time to see, so that it counts for the same case on both.
    async fn settle(&mut self, envoy: &Side, weir: &Side) {
        let count = |side: &Side, name: &String| side.upstreams[name].ended().map(usize::cast_signed);
        let now = || -> BTreeMap<String, isize> {
            let names = envoy.upstreams.keys();
            names.filter_map(|name| Some((name.clone(), count(envoy, name)? - count(weir, name)?))).collect()
        };
        let deadline = Instant::now() + AGREE;
        while now().iter().any(|(name, apart)| self.0.get(name).copied().unwrap_or_default() != *apart) {
            if Instant::now() > deadline {
                self.0 = now();
                return;
            }
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    }
}

fn shown_alike(tally: &mut Tally, label: &str, case: &Case, envoy: Shown, weir: Shown) {
    for failure in envoy.failures {
        tally.failures.push(format!("{label}: Envoy: {failure}"));
    }
    for failure in weir.failures {
        tally.failures.push(format!("{label}: weir: {failure}"));
    }
    let ours: BTreeMap<_, _> = weir.observed.iter().cloned().collect();
    let theirs: BTreeMap<_, _> = envoy.observed.iter().cloned().collect();
    let order = envoy.observed.iter().chain(weir.observed.iter().filter(|(what, _)| !theirs.contains_key(what)));
    for (what, _) in order {
        if case.after.skip.iter().any(|skipped| what.ends_with(skipped)) {
            continue;
        }
        let value = |of: &BTreeMap<String, String>| of.get(what).map_or(ABSENT, String::as_str).to_owned();
        tally.compare(label, what, &value(&theirs), &value(&ours), &case.after);
    }
}

/// Stats are summed over threads and may lag behind an answer: they get some time to agree.
async fn stats_alike(tally: &mut Tally, label: &str, case: &Case, envoy: &Side, weir: &Side) {
    let expressions: Vec<_> = case
        .after
        .stats
        .iter()
        .map(|text| Regex::new(&format!("^(?:{text})$")).unwrap_or_else(|error| panic!("{label}: `stats`: {error}")))
        .collect();
    let chosen = async |side: &Side| -> BTreeMap<String, String> {
        let stats = steps::stats(side).await;
        // Of histograms it is compared whether anything was recorded.
        let told = |value: String| if value.starts_with("P0(") { "<recorded>".to_owned() } else { value };
        let named = stats.into_iter().map(|(name, value)| (side.normal.apply(&name, &[]), told(value)));
        named.filter(|(name, _)| expressions.iter().any(|expression| expression.is_match(name))).collect()
    };
    let deadline = Instant::now() + AGREE;
    let (theirs, ours) = loop {
        let both = tokio::join!(chosen(envoy), chosen(weir));
        if both.0 == both.1 || Instant::now() > deadline {
            break both;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    if theirs.is_empty() {
        tally.failures.push(format!("{label}: Envoy has no stat like {:?}", case.after.stats));
    }
    for name in theirs.keys().chain(ours.keys().filter(|name| !theirs.contains_key(*name))) {
        let value = |of: &BTreeMap<String, String>| of.get(name).map_or(ABSENT, String::as_str).to_owned();
        let (theirs, ours) = (value(&theirs), value(&ours));
        tally.compare(label, &format!("stat {name}"), &theirs, &ours, &case.after);
    }
}

/// Whether both accept a changed bootstrap, or both refuse it.
async fn configured(tally: &mut Tally, name: &str, file: &File, configuration: &Configuration, sides: [&Side; 2]) {
    let label = format!("{name}: configuration: {}", configuration.name);
    if !file.bootstrap.contains(&configuration.find) {
        return tally.failures.push(format!("{label}: nothing to replace"));
    }
    let text = file.bootstrap.replacen(&configuration.find, &configuration.replace, 1);
    let [envoy, weir] = sides.map(async |side| {
        let path = side.directory.join("changed.yaml");
        std::fs::write(&path, side.fill(&text)).expect("write the bootstrap");
        accepts(side.which, &path).await
    });
    let (envoy, weir) = tokio::join!(envoy, weir);
    let differs = configuration.differs.is_some();
    if envoy.0 != (configuration.accepted != differs) {
        tally.failures.push(format!("{label}: Envoy accepts it: {} {}", envoy.0, envoy.1));
    }
    if weir.0 != configuration.accepted {
        tally.failures.push(format!("{label}: weir accepts it: {} {}", weir.0, weir.1));
    } else if !weir.0 && weir.1.trim_end().lines().count() != 1 {
        tally.failures.push(format!("{label}: weir says one line, not: {}", weir.1));
    } else if let Some(message) = configuration.message.as_ref().filter(|message| !weir.1.contains(*message)) {
        tally.failures.push(format!("{label}: weir's message lacks {message:?}: {}", weir.1));
    } else if let Some(id) = &configuration.differs {
        tally.deliberate += 1;
        tally.met.insert(id.clone());
    } else {
        tally.equal += 1;
    }
}

async fn accepts(which: Which, config: &Path) -> (bool, String) {
    let (program, more) = which.program();
    let output = Command::new(program)
        .args(["--mode", "validate", "-l", "error", "-c"])
        .arg(config)
        .args(more)
        .output()
        .await
        .expect("run a proxy");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}
