//! Servers that answer every request with one letter, at every address of the loopback network.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
};

/// Starts one, for ever; gives its port.
pub(super) fn start(letter: char) -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that is gone needs no answer.
            thread::spawn(move || answer(stream, letter));
        }
    });
    Ok(port)
}

fn answer(mut stream: TcpStream, letter: char) -> io::Result<()> {
    stream.set_nodelay(true)?;
    for line in BufReader::new(stream.try_clone()?).lines() {
        if line?.is_empty() {
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{letter}")?;
        }
    }
    Ok(())
}
