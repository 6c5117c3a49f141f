//! Where connections come from: sockets bound here, or handed off by the agent.

pub mod bound;
pub mod claims;
pub mod handoff;
pub mod listening;
pub mod passing;
pub mod pods;
pub mod seqpacket;
