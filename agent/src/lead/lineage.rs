//! Who led, in the order in which each did so first.

use std::{
    env, fmt, fs,
    io::{self, Read},
    path::Path,
};

use crate::file::put_private;

/// Names of agents that are remembered: those of the last rollouts, of which two meet at a time.
const REMEMBERED: usize = 32;
/// The pod's uid, by the downward API.
const VARIABLE: &str = "POD_UID";
/// Longer names are no pod's uid.
const MAX_BYTES: usize = 128;

/// Which agent: the uid of its pod, so that a container that is started again is the same one; outside a pod each
/// process is another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(String);

impl Identity {
    /// That of this process.
    pub fn own() -> io::Result<Self> {
        match env::var(VARIABLE) {
            Ok(uid) => Self::parse(&uid).ok_or_else(|| {
                let problem =
                    format!("{VARIABLE}: invalid pod uid {uid:?}, expected 1 to {MAX_BYTES} of a-z, A-Z, 0-9, -");
                io::Error::new(io::ErrorKind::InvalidInput, problem)
            }),
            Err(_) => Self::random(),
        }
    }

    /// Whether this process runs in a pod.
    pub fn is_of_a_pod() -> bool {
        env::var_os(VARIABLE).is_some()
    }

    fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// A name that another agent gives itself.
    pub fn parse(text: &str) -> Option<Self> {
        let known = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let valid = !text.is_empty() && text.len() <= MAX_BYTES && text.chars().all(known);
        valid.then(|| Self(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Agents in the order in which each led first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage(Vec<Identity>);

impl Lineage {
    /// Reads it; empty if there is none. What is not a name is passed over.
    pub fn read(path: &Path) -> io::Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(Self(text.lines().filter_map(|line| Identity::parse(line.trim())).collect())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes it, at once.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        put_private(path, self.0.iter().map(|identity| format!("{identity}\n")).collect::<String>().as_bytes())
    }

    /// An agent leads; whether that is new. One that did so before stays where it is: taking the lead back supersedes
    /// nobody.
    pub fn add(&mut self, identity: &Identity) -> bool {
        if self.0.contains(identity) {
            return false;
        }
        self.0.push(identity.clone());
        let surplus = self.0.len().saturating_sub(REMEMBERED);
        self.0.drain(..surplus);
        true
    }

    /// Whether `earlier` led first before `later` did.
    pub fn superseded(&self, earlier: &Identity, later: &Identity) -> bool {
        let place = |identity| self.0.iter().position(|known| known == identity);
        matches!((place(earlier), place(later)), (Some(earlier), Some(later)) if earlier < later)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(text: &str) -> Identity {
        Identity::parse(text).unwrap()
    }

    #[test]
    fn who_led_first_is_superseded_by_who_led_later() {
        let (old, new) = (identity("old"), identity("new"));
        let mut lineage = Lineage::default();
        assert!(lineage.add(&old));
        assert!(!lineage.superseded(&new, &old), "the new one is not known yet");
        assert!(lineage.add(&new));
        assert!(lineage.superseded(&old, &new) && !lineage.superseded(&new, &old));
        // Taken back while the new one is away: the new one may have it again.
        assert!(!lineage.add(&old));
        assert!(!lineage.superseded(&new, &old));
        assert!(!lineage.superseded(&old, &old));
    }

    #[test]
    fn it_is_kept_in_a_file_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/blue.lineage");
        assert_eq!(Lineage::read(&path).unwrap(), Lineage::default());
        let mut lineage = Lineage::default();
        for number in 0..REMEMBERED + 3 {
            lineage.add(&identity(&format!("pod-{number}")));
        }
        lineage.write(&path).unwrap();
        assert_eq!(Lineage::read(&path).unwrap(), lineage);
        assert_eq!((lineage.0.len(), lineage.0[0].as_str()), (REMEMBERED, "pod-3"));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        fs::write(&path, "pod-1\nno name\n\npod-2\n").unwrap();
        assert!(Lineage::read(&path).unwrap().superseded(&identity("pod-1"), &identity("pod-2")));
    }

    #[test]
    fn processes_outside_pods_differ() {
        assert_ne!(Identity::random().unwrap(), Identity::random().unwrap());
        assert_eq!(Identity::parse("a b"), None);
        assert_eq!(Identity::parse(""), None);
    }
}
