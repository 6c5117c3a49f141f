//! What is told of a decision: counters, flows, events and faults.

use crate::maps::{COUNTERS, EVENTS, FAULTS, FLOWS};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid};
use core::arch::asm;
use weir_abi::event::{Event, EventKind};
use weir_abi::map::{Config, Fault, FlowKey, FlowValue, MAX_PODS, MAX_RULES, config_flag};
use weir_abi::{Endpoint, Ip, Rule};

/// A decision about one connection of an enrolled pod.
pub struct Decision<'a> {
    /// The pod's slot.
    pub slot: u32,
    /// The pod's netns cookie.
    pub netns: u64,
    /// What decided.
    pub rule: Rule,
    /// Where the connection comes from; unspecified while unknown.
    pub source: &'a Endpoint,
    /// The original destination.
    pub destination: &'a Endpoint,
}

/// What the kernel knows of a connection when it closes.
pub struct Close {
    /// The original destination or, inbound, the application's address.
    pub destination: Endpoint,
    /// Bytes that the peer acknowledged.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Smoothed round-trip time, in microseconds.
    pub rtt_us: u32,
    /// Segments retransmitted.
    pub retransmits: u32,
}

/// Counts a decision, and nothing else: for what is too frequent to be told one by one.
#[inline(always)]
pub fn count(slot: u32, rule: Rule) {
    if slot < MAX_PODS
        && let Some(counter) = COUNTERS.get_ptr_mut(slot * MAX_RULES + rule as u32)
    {
        add(counter, 1);
    }
}

/// Counts a decision, by rule and by destination, and writes an event while somebody watches; with the current process
/// where the program runs in its context (`with_process`).
#[inline(always)]
pub fn decision(config: &Config, decision: &Decision<'_>, with_process: bool) {
    count(decision.slot, decision.rule);
    let now = monotonic_ns();
    let key = FlowKey {
        slot: decision.slot,
        rule: decision.rule as u32,
        ip: decision.destination.ip,
        port: decision.destination.port,
        reserved: 0,
    };
    match FLOWS.get_ptr_mut(key) {
        Some(flow) => {
            // SAFETY: the pointer is to this CPU's value, which lives as long as the program runs.
            let (count, last_seen) = unsafe { (&raw mut (*flow).count, &raw mut (*flow).last_seen) };
            add(count, 1);
            // SAFETY: as above; an aligned store of 8 bytes.
            unsafe { last_seen.write(now) };
        }
        // Full of newer flows on another CPU: the counters still have it.
        None => drop(FLOWS.insert(key, FlowValue { count: 1, last_seen: now }, 0)),
    }
    if !is_watched(config) {
        return;
    }
    let Some(mut entry) = EVENTS.reserve(0) else { return fault(Fault::EventDropped) };
    let (pid, comm) = if with_process {
        ((bpf_get_current_pid_tgid() >> 32) as u32, bpf_get_current_comm().unwrap_or_default())
    } else {
        (0, [0; 16])
    };
    entry.write(Event {
        time: now,
        netns: decision.netns,
        kind: EventKind::Decision as u32,
        rule: decision.rule as u32,
        slot: decision.slot,
        pid,
        source_ip: decision.source.ip,
        destination_ip: decision.destination.ip,
        source_port: decision.source.port,
        destination_port: decision.destination.port,
        bytes_sent: 0,
        bytes_received: 0,
        rtt_us: 0,
        retransmits: 0,
        comm,
    });
    entry.submit(0);
}

/// Writes the event of a connection's end, if somebody watches.
#[inline(always)]
pub fn close(netns: u64, slot: u32, rule: Rule, source_ip: Ip, source_port: u32, close: &Close) {
    let Some(mut entry) = EVENTS.reserve(0) else { return fault(Fault::EventDropped) };
    entry.write(Event {
        time: monotonic_ns(),
        netns,
        kind: EventKind::Close as u32,
        rule: rule as u32,
        slot,
        pid: 0,
        source_ip,
        destination_ip: close.destination.ip,
        source_port,
        destination_port: close.destination.port,
        bytes_sent: close.bytes_sent,
        bytes_received: close.bytes_received,
        rtt_us: close.rtt_us,
        retransmits: close.retransmits,
        comm: [0; 16],
    });
    entry.submit(0);
}

/// Whether events are wanted.
#[inline(always)]
pub fn is_watched(config: &Config) -> bool {
    config.flags & config_flag::WATCHED != 0
}

/// Counts a fault of the programs themselves.
#[inline(always)]
pub fn fault(fault: Fault) {
    if let Some(counter) = FAULTS.get_ptr_mut(fault as u32) {
        add(counter, 1);
    }
}

/// Adds atomically: a per-CPU value is still shared with the task that preempts this one and with interrupts.
#[inline(always)]
fn add(counter: *mut u64, n: u64) {
    // SAFETY: map values are aligned to 8 bytes and live as long as the program runs. In assembly because core has no
    // read-modify-write atomics for this target.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) n) };
}

#[inline(always)]
fn monotonic_ns() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}
