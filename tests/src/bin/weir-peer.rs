//! A client that lives in a cgroup or a namespace of its own: what tests can't do on a thread of theirs.

use std::{io, net::SocketAddr, time::Duration};

use clap::Parser;
use socket2::{Domain, Socket, Type};
use weir_tests::echo::Dialled;

/// Dials an echo server once and writes what both ends saw.
#[derive(Parser)]
struct Arguments {
    /// Where to.
    to: SocketAddr,
    /// Source address and port.
    #[arg(long)]
    from: Option<SocketAddr>,
    /// End the connection with a reset, so that its source port is free at once.
    #[arg(long)]
    reset: bool,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let domain = if arguments.to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    if let Some(from) = arguments.from {
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
    }
    socket.connect_timeout(&arguments.to.into(), Duration::from_secs(10))?;
    let stream: std::net::TcpStream = socket.try_clone()?.into();
    let dialled = Dialled::verify(stream, arguments.to)?;
    if arguments.reset {
        socket.set_linger(Some(Duration::ZERO))?;
    }
    println!("{} {}", dialled.server.local, dialled.server.peer);
    Ok(())
}
