//! What was accepted, on disk: a proxy that is started without its management server serves it.
//!
//! One file per type, `<abbreviation>.xds`: a line with the format, a checksum and the length, then an encoded
//! `DeltaDiscoveryResponse` of all resources in force. A file is replaced whole; one that is damaged is set aside and never
//! loaded. Secrets are among them: the directory and its files are for the proxy's own user only.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use prost::Message;
use prost_types::Any;
use weir_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource as Wrapped};
use xxhash_rust::xxh64::xxh64;

use super::{
    kind::Kind,
    store::{Content, OfKind},
    update::Resource,
};

/// Begins every file; the number is that of the format.
const MAGIC: &str = "weir-xds 1";
/// The longest first line.
const LONGEST_LINE: usize = 64;
/// The extension of a file that is loaded.
const EXTENSION: &str = "xds";
/// Begins the extension of a file that is being written.
const BEING_WRITTEN: &str = "new-";
/// Begins the extension of a file that was set aside.
const CORRUPT: &str = "corrupt-";
/// What was last written to so long ago is being written by nobody any more.
const LONG_AGO: Duration = Duration::from_secs(3600);

/// Why a file does not apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// It was not written by this.
    #[error("it does not begin with \"{MAGIC}\", a checksum and a length")]
    Begin,
    /// Something is missing, or too much.
    #[error("it has {has} bytes of content and says {says}")]
    Length {
        /// What there is.
        has: usize,
        /// What its first line says.
        says: usize,
    },
    /// Its content is not what was written.
    #[error("its checksum is {is:016x} and says {says:016x}")]
    Checksum {
        /// Of what there is.
        is: u64,
        /// What its first line says.
        says: u64,
    },
    /// Its content can't be decoded.
    #[error("its content is no DeltaDiscoveryResponse of {0}")]
    Content(&'static str),
}

/// All resources in force, as they are written. Those with a time to live are left out: nobody would end them.
fn encode(kind: Kind, of: &OfKind) -> Vec<u8> {
    let resources = of.entries.iter().filter_map(|(name, entry)| {
        let accepted = entry.accepted.as_ref().filter(|accepted| !accepted.fleeting)?;
        Some(Wrapped {
            name: name.to_string(),
            version: accepted.version.to_string(),
            resource: Some(Any { type_url: kind.type_url().to_owned(), value: accepted.body.to_vec() }),
            ..Wrapped::default()
        })
    });
    let response = DeltaDiscoveryResponse {
        system_version_info: of.version.as_deref().unwrap_or_default().to_owned(),
        resources: resources.collect(),
        type_url: kind.type_url().to_owned(),
        ..DeltaDiscoveryResponse::default()
    };
    let content = response.encode_to_vec();
    let mut file = format!("{MAGIC} {:016x} {}\n", xxh64(&content, 0), content.len()).into_bytes();
    file.extend_from_slice(&content);
    file
}

fn decode(kind: Kind, file: &[u8]) -> Result<Content, Damaged> {
    let line = file.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n').ok_or(Damaged::Begin)?;
    let (line, content) = (&file[..line], &file[line + 1..]);
    let line = std::str::from_utf8(line).map_err(|_| Damaged::Begin)?;
    let mut words = line.strip_prefix(MAGIC).ok_or(Damaged::Begin)?.split_ascii_whitespace();
    let checksum = words.next().and_then(|word| u64::from_str_radix(word, 16).ok()).ok_or(Damaged::Begin)?;
    let length: usize = words.next().and_then(|word| word.parse().ok()).ok_or(Damaged::Begin)?;
    if length != content.len() {
        return Err(Damaged::Length { has: content.len(), says: length });
    }
    let is = xxh64(content, 0);
    if is != checksum {
        return Err(Damaged::Checksum { is, says: checksum });
    }
    let wrong = || Damaged::Content(kind.message());
    let response = DeltaDiscoveryResponse::decode(content).map_err(|_| wrong())?;
    let resources = response.resources.into_iter().map(|resource| {
        let any = resource.resource.filter(|any| any.type_url == kind.type_url())?;
        Some(Resource {
            name: resource.name.into(),
            version: resource.version.into(),
            body: any.value.into(),
            ttl: None,
            aliases: Vec::new(),
        })
    });
    let resources = resources.collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
    Ok(Content { version: response.system_version_info.into(), resources, ..Content::default() })
}

/// A directory of such files: one per source and view.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Makes it if it is not there. What somebody who was ended meanwhile was writing there goes.
    pub fn open(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let directory = Self(path.to_owned());
        let age = |of: &Path| fs::metadata(of)?.modified()?.elapsed().map_err(io::Error::other);
        for path in directory.files(|extension| extension.starts_with(BEING_WRITTEN)) {
            if age(&path).is_ok_and(|age| age > LONG_AGO) {
                remove(&path);
            }
        }
        Ok(directory)
    }

    /// Removes it with all that this has made in it.
    pub fn remove(path: &Path) {
        let ours = |extension: &str| {
            extension == EXTENSION || extension.starts_with(BEING_WRITTEN) || extension.starts_with(CORRUPT)
        };
        Self(path.to_owned()).files(ours).iter().for_each(|file| remove(file));
        // What somebody else has made there stays, with it.
        if fs::remove_dir(path).is_ok() {
            tracing::info!(path = %path.display(), "saved resources of what is not followed any more are removed");
        }
    }

    /// Its files with such an extension.
    fn files(&self, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).into_iter().flatten();
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths.filter(|path| path.extension().and_then(OsStr::to_str).is_some_and(&wanted)).collect()
    }

    fn path(&self, kind: Kind) -> PathBuf {
        self.0.join(kind.short()).with_extension(EXTENSION)
    }

    /// Replaces a type's file. Whatever happens meanwhile, the old one or the new one is there; of several processes that
    /// do this, as when one takes over from another, the last has its way.
    pub fn save(&self, kind: Kind, of: &OfKind) -> io::Result<()> {
        let path = self.path(kind);
        // In containers, processes of different namespaces have the same numbers.
        let beside = path.with_extension(format!("{BEING_WRITTEN}{:016x}", fastrand::u64(..)));
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            file.write_all(&encode(kind, of))?;
            file.sync_all()?;
            fs::rename(&beside, &path)
        };
        write().inspect_err(|_| remove(&beside))?;
        fs::File::open(&self.0)?.sync_all()
    }

    /// What a type's file has; none: there is none, or it is of no use and has been set aside.
    pub(super) fn load(&self, kind: Kind, now: SystemTime) -> Option<Content> {
        let path = self.path(kind);
        let why = match fs::read(&path) {
            Ok(file) => match decode(kind, &file) {
                Ok(content) => return Some(content),
                Err(damaged) => damaged.to_string(),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "saved resources can't be read");
                return None;
            }
        };
        // One is enough to find out what happened, and there may be secrets in each.
        let before = self.files(|extension| extension.starts_with(CORRUPT));
        before.iter().filter(|other| other.file_stem() == path.file_stem()).for_each(|other| remove(other));
        let at = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let aside = path.with_extension(format!("{CORRUPT}{at}"));
        match fs::rename(&path, &aside) {
            Ok(()) => {
                tracing::warn!(path = %path.display(), why, aside = %aside.display(), "saved resources are not used")
            }
            Err(error) => tracing::warn!(path = %path.display(), why, %error, "saved resources are not used"),
        }
        None
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a file of no use can't be removed");
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, sync::Arc, thread};

    use super::*;
    use crate::xds::{
        store::Store,
        update::{Origin, Refused},
    };

    fn resource(name: &str, body: &'static str, ttl: Option<Duration>) -> Resource {
        Resource { name: name.into(), version: "1".into(), body: body.into(), ttl, aliases: Vec::new() }
    }

    /// x and y in force, z refused, t for a while only.
    fn known() -> OfKind {
        let store = Store::default();
        let second = Some(Duration::from_secs(1));
        let resources = ["x", "y", "z"].map(|name| resource(name, "some bytes", None));
        let content = Content {
            version: "7".into(),
            resources: resources.into_iter().chain([resource("t", "", second)]).collect(),
            ..Content::default()
        };
        let update = store.changes(Kind::Cluster, content, Origin::Server).unwrap();
        let verdict = Err(Refused::Some(vec![("z".into(), "bad".into())]));
        store.settle(&update, &verdict, Some("bad"), SystemTime::UNIX_EPOCH);
        store.of(Kind::Cluster)
    }

    fn directory() -> (tempfile::TempDir, Directory) {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::open(&temporary.path().join("a/b")).unwrap();
        (temporary, directory)
    }

    #[test]
    fn what_is_saved_is_what_is_in_force_and_nobody_else_may_read_it() {
        let (_temporary, directory) = directory();
        assert_eq!(directory.load(Kind::Cluster, SystemTime::UNIX_EPOCH), None);
        directory.save(Kind::Cluster, &known()).unwrap();
        directory.save(Kind::Cluster, &known()).unwrap();
        let content = directory.load(Kind::Cluster, SystemTime::UNIX_EPOCH).unwrap();
        let resources = vec![resource("x", "some bytes", None), resource("y", "some bytes", None)];
        assert_eq!(content, Content { version: "7".into(), resources, ..Content::default() });
        assert_eq!(directory.load(Kind::Listener, SystemTime::UNIX_EPOCH), None);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory.0), mode(&directory.path(Kind::Cluster))), (0o700, 0o600));
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_nothing_of_it_is_loaded() {
        let whole = encode(Kind::Cluster, &known());
        let end = whole.len() - 1;
        let replaced = |at: usize, byte: u8| {
            let mut file = whole.clone();
            file[at] = byte;
            file
        };
        let line = whole.iter().position(|byte| *byte == b'\n').unwrap();
        for (file, why) in [
            (Vec::new(), "it does not begin with \"weir-xds 1\", a checksum and a length"),
            (b"weir-xds 2 0 0\n".to_vec(), "it does not begin with \"weir-xds 1\", a checksum and a length"),
            (b"weir-xds 1 x 0\n".to_vec(), "it does not begin with \"weir-xds 1\", a checksum and a length"),
            (whole[..end].to_vec(), "it has 205 bytes of content and says 206"),
            ([&*whole, b"x"].concat(), "it has 207 bytes of content and says 206"),
        ] {
            assert_eq!(decode(Kind::Cluster, &file).unwrap_err().to_string(), why);
        }
        for (at, byte) in whole.iter().enumerate().skip(line + 1) {
            let damaged = decode(Kind::Cluster, &replaced(at, !byte)).unwrap_err();
            assert!(damaged.to_string().starts_with("its checksum is "), "{damaged}");
        }
        let other = decode(Kind::Listener, &whole).unwrap_err();
        assert_eq!(other.to_string(), "its content is no DeltaDiscoveryResponse of envoy.config.listener.v3.Listener");
        let (_temporary, directory) = directory();
        fs::write(directory.path(Kind::Cluster), &whole[..end]).unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        assert_eq!(directory.load(Kind::Cluster, now), None);
        assert!(!directory.path(Kind::Cluster).exists());
        assert_eq!(fs::read(directory.0.join("cds.corrupt-5")).unwrap(), &whole[..end]);
        // The next takes the place of it, and no other's.
        for kind in [Kind::Listener, Kind::Cluster] {
            fs::write(directory.path(kind), "").unwrap();
            assert_eq!(directory.load(kind, now + Duration::from_secs(1)), None);
        }
        let mut aside: Vec<_> = fs::read_dir(&directory.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        aside.sort();
        assert_eq!(aside, ["cds.corrupt-6", "lds.corrupt-6"]);
    }

    #[test]
    fn of_two_who_save_at_once_each_has_its_way() {
        let (_temporary, directory) = directory();
        let saving = || (0..50).try_for_each(|_| directory.save(Kind::Cluster, &known()));
        let [one, two] = thread::scope(|scope| {
            let both = [scope.spawn(saving), scope.spawn(saving)];
            both.map(|one| one.join().unwrap().map_err(|error| error.to_string()))
        });
        assert_eq!((one, two), (Ok(()), Ok(())));
        assert_eq!(directory.load(Kind::Cluster, SystemTime::UNIX_EPOCH).unwrap().resources.len(), 2);
        assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 1);
    }

    #[test]
    fn what_was_being_written_goes_once_nobody_can_be_at_it() {
        let (_temporary, directory) = directory();
        let [old, new] = ["cds.new-1", "cds.new-2"].map(|name| directory.0.join(name));
        let written = |path: &Path| fs::File::create(path).unwrap();
        written(&new);
        written(&old).set_modified(SystemTime::now() - 2 * LONG_AGO).unwrap();
        Directory::open(&directory.0).unwrap();
        assert_eq!((old.exists(), new.exists()), (false, true));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let (_temporary, directory) = directory();
        let path: Arc<Path> = directory.path(Kind::Cluster).into();
        fs::write(&path, "").unwrap();
        assert_eq!(Directory::open(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
