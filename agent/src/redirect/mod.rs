//! The kernel side: the eBPF programs loaded, attached and pinned, and what the maps say of the pods.
//!
//! Pins outlive the agent. The next one adopts them: it opens the maps as they are and gives the links the programs of
//! its own object in place, so that an enrolled pod is never without redirect. Only `pins::Pins::remove` removes them,
//! and a first start that fails takes back what it had pinned.

pub mod ancestor;
mod bytes;
mod config_handle;
pub mod inspect;
mod link;
mod logs;
mod maps;
pub mod node;
mod object;
pub mod pins;
mod retired;

pub use config_handle::{ConfigHandle, no_proxy};
pub use logs::wanted as logs_wanted;
pub use maps::PodRules;
pub use retired::Retired;

use std::{
    collections::BTreeSet,
    fmt,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{
    Ebpf,
    maps::MapError,
    pin::PinError,
    programs::{
        CgroupAttachMode, CgroupSockAddr, Program, ProgramError, SkLookup, SockOps,
        links::{FdLink, LinkError},
    },
};
use parking_lot::Mutex;
use weir_abi::{
    Endpoint, Ip,
    addr::EndpointRole,
    map::{PodConfig, SlotConfig},
};

use crate::{causes::on_one_line, netns::Netns};
use maps::{PodMaps, SocketMaps};
use object::Loader;
use pins::Pins;

/// The programs that are attached once, at the root of cgroup2, in the order of attaching: what answers and hands over
/// is there before what redirects.
const NODE_PROGRAMS: [&str; 5] = ["weir_sockops", "weir_peername4", "weir_peername6", "weir_connect4", "weir_connect6"];
/// The program that is attached to each pod's network namespace.
const POD_PROGRAM: &str = "weir_sklookup";

/// Why the kernel side could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of the pins.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another agent holds the lock of the pins.
    #[error(
        "another agent runs with the pins in {}: stop it first, or choose another instance", .0.display()
    )]
    AnotherAgent(PathBuf),
    /// The pins are of a weir whose maps look otherwise.
    #[error(
        "the pins in {} are another version's (map {map}: {difference}): run `weir-agent uninstall --instance {}` with \
         that version stopped; pods are not redirected until they are enrolled again",
        directory.display(), instance(directory)
    )]
    OtherAbi {
        /// The map.
        map: String,
        /// Directory of the pins.
        directory: PathBuf,
        /// What is different.
        difference: String,
    },
    /// The pins are of a weir that means something else by them.
    #[error(
        "the pins in {} have layout {found}, and this agent works with layout {own}: run `weir-agent uninstall \
         --instance {}` with that version stopped; pods are not redirected until they are enrolled again",
        directory.display(), instance(directory)
    )]
    OtherLayout {
        /// Directory of the pins.
        directory: PathBuf,
        /// Their layout.
        found: String,
        /// This agent's.
        own: u32,
    },
    /// The object does not load.
    #[error("cannot load the eBPF object: {0}")]
    Object(String),
    /// The object lacks a map.
    #[error("the eBPF object has no map {0}")]
    NoMap(&'static str),
    /// The object lacks a program, or it is of another type.
    #[error("the eBPF object has no program {0} of the expected type")]
    NoProgram(&'static str),
    /// All slots are taken.
    #[error("no slot is free: {} pods are the most that one node can enroll", weir_abi::map::MAX_PODS)]
    NoSlot,
    /// A pinned map cannot be opened.
    #[error("cannot open the pinned map {}: {}", pin.display(), on_one_line(source))]
    Pinned {
        /// Its pin.
        pin: PathBuf,
        /// Why.
        source: Box<MapError>,
    },
    /// A map operation failed.
    #[error("map {name}: {}", on_one_line(source))]
    Map {
        /// The map.
        name: &'static str,
        /// Why.
        source: Box<MapError>,
    },
    /// A program does not load or attach.
    #[error("cannot {action} the program {name}: {reason}")]
    Program {
        /// What was tried.
        action: &'static str,
        /// The program.
        name: &'static str,
        /// Why not.
        reason: String,
    },
}

fn instance(directory: &Path) -> impl fmt::Display {
    directory.file_name().unwrap_or_default().display()
}

/// The kernel side of one instance.
pub struct Redirect {
    pins: Pins,
    loader: Mutex<Loader>,
    pods: Mutex<PodMaps>,
    sockets: Mutex<SocketMaps>,
    config: ConfigHandle,
    retired: Arc<Retired>,
    adopted: bool,
}

impl Redirect {
    /// Loads and attaches the node's programs at the root of cgroup2, or adopts what is pinned. `logs` switches the
    /// programs' own log records on. Blocks, up to a second in debug builds.
    pub fn start(pins: Pins, cgroup2: &Path, logs: bool) -> Result<Self, Error> {
        let mut loader = Loader::new(&pins, logs)?;
        loader.check_pinned(&pins)?;
        let adopted = NODE_PROGRAMS.iter().any(|program| pins.link(program).exists());
        match Self::load(&pins, &mut loader, cgroup2, logs) {
            Ok((pods, sockets, config)) => Ok(Self {
                loader: Mutex::new(loader),
                pods: Mutex::new(pods),
                sockets: Mutex::new(sockets),
                config,
                retired: Arc::default(),
                adopted,
                pins,
            }),
            Err(error) => {
                // A first start takes back what it pinned; an adopting one leaves what works.
                if !adopted && let Err(left) = pins.remove() {
                    tracing::warn!(error = %left, "some pins of the failed start are left");
                }
                Err(error)
            }
        }
    }

    fn load(
        pins: &Pins,
        loader: &mut Loader,
        cgroup2: &Path,
        logs: bool,
    ) -> Result<(PodMaps, SocketMaps, ConfigHandle), Error> {
        let mut object = loader.load(0)?;
        let cgroup =
            File::open(cgroup2).map_err(|source| Error::Io { action: "open", path: cgroup2.to_owned(), source })?;
        for name in NODE_PROGRAMS {
            load_program(program(&mut object, name)?, name)?;
        }
        for name in NODE_PROGRAMS {
            attach(pins, program(&mut object, name)?, name, name, &cgroup)?;
        }
        if logs {
            logs::follow(&mut object)?;
        }
        let config = ConfigHandle::take(&mut object)?;
        Ok((PodMaps::take(&mut object)?, SocketMaps::take(&mut object)?, config))
    }

    /// Whether the pins of an earlier agent were adopted.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Directory of the pins.
    pub fn directory(&self) -> &Path {
        self.pins.directory()
    }

    /// Lets go of the lock: another agent leads from here on. Nothing may be changed any more.
    pub fn retire(&self) {
        self.pins.release();
    }

    /// Takes everything out of the kernel: links, programs and maps. Nothing may be changed any more.
    pub fn remove(&self) -> Result<(), Error> {
        self.pins.remove()
    }

    /// What holds for the whole node.
    pub fn config(&self) -> ConfigHandle {
        self.config.clone()
    }

    /// What was counted for pods that are withdrawn.
    pub fn retired(&self) -> Arc<Retired> {
        self.retired.clone()
    }

    /// The pods that the kernel redirects, with the cookies of their network namespaces.
    pub fn enrolled(&self) -> Result<Vec<(u64, PodConfig)>, Error> {
        self.pods.lock().enrolled()
    }

    /// Inserts or changes a pod; from now on its outbound connections are redirected.
    pub fn enroll(&self, cookie: u64, pod: &PodConfig) -> Result<(), Error> {
        self.pods.lock().enroll(cookie, pod)
    }

    /// Fills a slot: its inbound listening sockets and what `sk_lookup` knows.
    pub fn fill_slot(&self, slot: u32, config: &SlotConfig, inbound: &[impl AsRawFd]) -> Result<(), Error> {
        let mut pods = self.pods.lock();
        pods.set_listeners(slot, inbound)?;
        pods.set_slot(slot, &SlotConfig { listeners: inbound.len() as u32, ..*config })
    }

    /// Changes what `sk_lookup` knows of a slot, but not its sockets.
    pub fn set_slot(&self, slot: u32, config: &SlotConfig) -> Result<(), Error> {
        self.pods.lock().set_slot(slot, config)
    }

    /// The ports and CIDRs of a slot, as the kernel has them.
    pub fn rules(&self, slot: u32) -> Result<PodRules, Error> {
        self.pods.lock().rules(slot)
    }

    /// Turns the ports and CIDRs of a slot from `from` into `to`.
    pub fn change_rules(&self, slot: u32, from: &PodRules, to: &PodRules) -> Result<(), Error> {
        self.pods.lock().change_rules(slot, from, to)
    }

    /// Attaches an instance of `sk_lookup` for this slot to a pod's namespace, or gives the attached one its program in
    /// place: from now on connections from outside are steered. Blocks for some 10 ms.
    pub fn steer(&self, slot: u32, netns: &Netns) -> Result<(), Error> {
        let mut object = self.loader.lock().load(slot)?;
        let program = program(&mut object, POD_PROGRAM)?;
        load_program(program, POD_PROGRAM)?;
        attach(&self.pins, program, POD_PROGRAM, &pod_pin(slot), netns)
    }

    /// Takes a pod out of the kernel, in the reverse order of enrolling it: nothing is redirected, nothing is steered,
    /// the slot is empty, its counts are forgotten. Idempotent.
    pub fn withdraw(&self, cookie: u64, slot: u32) -> Result<(), Error> {
        self.pods.lock().unenroll(cookie)?;
        self.release(slot)
    }

    /// The second half of [`Self::withdraw`], for a slot whose pod never got into `ENROLLED`.
    pub fn release(&self, slot: u32) -> Result<(), Error> {
        pins::remove_link(&self.pins.link(&pod_pin(slot)))?;
        pins::remove(&self.pins.program(&pod_pin(slot)))?;
        let mut pods = self.pods.lock();
        pods.set_listeners(slot, &[] as &[OwnedFd])?;
        let rules = pods.rules(slot)?;
        pods.change_rules(slot, &rules, &PodRules::default())?;
        self.retired.add(&pods.clear_counts(slot)?);
        // Last, because by it the next agent knows that there is something to clean if this one ends in between.
        pods.set_slot(slot, &SlotConfig::default())
    }

    /// Slots of which anything is there, whether their pod is enrolled or an agent died half-way.
    pub fn used_slots(&self) -> Result<BTreeSet<u32>, Error> {
        let names = self.pins.names("links")?.into_iter().chain(self.pins.names("programs")?);
        let mut slots = self.pods.lock().used_slots()?;
        slots.extend(names.filter_map(|name| slot_of(&name)));
        Ok(slots)
    }

    /// Tags a socket as one that the proxy dials out with.
    pub fn tag_upstream(&self, socket: &impl AsRawFd) -> Result<(), Error> {
        let tag = Endpoint { ip: Ip::UNSPECIFIED, port: 0, role: EndpointRole::Upstream as u32 };
        self.sockets.lock().tag(socket, &tag)
    }

    /// Copies of the file descriptors of `ACCEPTED` and `UPSTREAM`, for a proxy.
    pub fn socket_maps(&self) -> io::Result<[OwnedFd; 2]> {
        let sockets = self.sockets.lock();
        let (accepted, upstream) = sockets.fds();
        Ok([accepted.try_clone()?, upstream.try_clone()?])
    }
}

impl fmt::Debug for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redirect").field("pins", &self.pins).field("adopted", &self.adopted).finish_non_exhaustive()
    }
}

/// Name of the pins of a slot's instance of `sk_lookup`.
fn pod_pin(slot: u32) -> String {
    format!("{POD_PROGRAM}_{slot}")
}

fn slot_of(pin: &str) -> Option<u32> {
    pin.strip_prefix(POD_PROGRAM)?.strip_prefix('_')?.parse().ok()
}

fn program<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program, Error> {
    object.program_mut(name).ok_or(Error::NoProgram(name))
}

fn load_program(program: &mut Program, name: &'static str) -> Result<(), Error> {
    let loaded = match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        _ => return Err(Error::NoProgram(name)),
    };
    loaded.map_err(|error| Error::Program { action: "load", name, reason: load_failure(&error) })
}

/// The verifier's last lines say what it did not like; the rest fills screens.
fn load_failure(error: &ProgramError) -> String {
    const LINES: usize = 3;
    let ProgramError::LoadError { io_error, verifier_log } = error else { return on_one_line(error) };
    let log = verifier_log.to_string();
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match &lines[lines.len().saturating_sub(LINES)..] {
        [] => io_error.to_string(),
        last => format!("{io_error}; the verifier says: {}", last.join("; ")),
    }
}

/// Attaches a loaded program to its target and pins both, or gives the link that is pinned already this program.
fn attach(pins: &Pins, program: &mut Program, name: &'static str, pin: &str, target: &impl AsFd) -> Result<(), Error> {
    let failed = |action| move |reason: String| Error::Program { action, name, reason };
    let fd = program.fd().map_err(|error| failed("attach")(on_one_line(&error)))?;
    let link_pin = pins.link(pin);
    let updated = link::update(&link_pin, fd).map_err(|error| failed("replace")(error.to_string()))?;
    pin_program(pins, program, name, pin)?;
    if updated == link::Updated::Replaced {
        return Ok(());
    }
    let link = attached(program, name, target).map_err(|error| failed("attach")(on_one_line(&error)))?;
    link.pin(link_pin).map(drop).map_err(|error| failed("pin the link of")(on_one_line(&error)))
}

/// Pins a program; in the place of an earlier one at once, so that the pin is always there.
fn pin_program(pins: &Pins, program: &mut Program, name: &'static str, pin: &str) -> Result<(), Error> {
    let failed = |reason: String| Error::Program { action: "pin", name, reason };
    let (place, temporary) = (pins.program(pin), pins.program(&format!("{pin}_new")));
    pins::remove(&temporary)?;
    program.pin(&temporary).map_err(|error: PinError| failed(on_one_line(&error)))?;
    std::fs::rename(&temporary, &place).map_err(|error| failed(error.to_string()))
}

fn attached(program: &mut Program, name: &'static str, target: &impl AsFd) -> Result<FdLink, AttachError> {
    match program {
        Program::CgroupSockAddr(program) => {
            // With links several programs run whatever the mode; the other modes are for links an error.
            let id = CgroupSockAddr::attach(program, target, CgroupAttachMode::Single)?;
            Ok(program.take_link(id)?.try_into()?)
        }
        Program::SockOps(program) => {
            let id = SockOps::attach(program, target, CgroupAttachMode::Single)?;
            Ok(program.take_link(id)?.try_into()?)
        }
        Program::SkLookup(program) => {
            let id = SkLookup::attach(program, target)?;
            Ok(program.take_link(id)?.into())
        }
        _ => Err(AttachError::Type(name)),
    }
}

#[derive(Debug, thiserror::Error)]
enum AttachError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("{0} is of a type that weir does not attach")]
    Type(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_pods_bear_their_slot() {
        assert_eq!(slot_of(&pod_pin(17)), Some(17));
        assert_eq!(slot_of("weir_sklookup_17_new"), None);
        assert_eq!(slot_of("weir_connect4"), None);
    }

    #[test]
    fn another_version_s_pins_are_named_with_the_way_out() {
        let error = Error::OtherAbi {
            map: "ENROLLED".to_owned(),
            directory: "/sys/fs/bpf/weir/blue".into(),
            difference: "bytes of a value 152, expected 168".to_owned(),
        };
        assert_eq!(
            error.to_string(),
            "the pins in /sys/fs/bpf/weir/blue are another version's (map ENROLLED: bytes of a value 152, expected \
             168): run `weir-agent uninstall --instance blue` with that version stopped; pods are not redirected until \
             they are enrolled again"
        );
    }
}
