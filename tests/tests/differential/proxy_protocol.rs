//! PROXY protocol headers that scripted servers read, told in words.

use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::{io::AsyncReadExt, net::TcpStream};

/// What a header of version 2 starts with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// A header of version 1 is no longer than this.
const LONGEST: usize = 107;

/// Reads a header and nothing more.
pub async fn read(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    loop {
        head.push(stream.read_u8().await.ok()?);
        if head == SIGNATURE {
            return version2(stream).await;
        }
        if head.ends_with(b"\r\n") && head.starts_with(b"PROXY") {
            // Addresses and ports as elsewhere, so that ports get their names.
            let text = String::from_utf8_lossy(&head).trim_end().to_owned();
            return Some(match text.split(' ').collect::<Vec<_>>()[..] {
                [proxy, family, source, destination, from, to] => {
                    format!("{proxy} v1 {family} {source}:{from} {destination}:{to}")
                }
                _ => text,
            });
        }
        if head.len() > LONGEST {
            return None;
        }
    }
}

async fn version2(stream: &mut TcpStream) -> Option<String> {
    let mut fixed = [0; 4];
    stream.read_exact(&mut fixed).await.ok()?;
    let mut rest = vec![0; usize::from(u16::from_be_bytes([fixed[2], fixed[3]]))];
    stream.read_exact(&mut rest).await.ok()?;
    let command = if fixed[0] & 0xf == 0 { "LOCAL" } else { "PROXY" };
    let length = match fixed[1] >> 4 {
        1 => 12,
        2 => 36,
        _ => 0,
    };
    let (addresses, values) = rest.split_at_checked(length)?;
    let told = match length {
        12 => {
            let address = |at: usize| <[u8; 4]>::try_from(&addresses[at..at + 4]).map(Ipv4Addr::from).ok();
            format!("{}:{} {}:{}", address(0)?, port(addresses, 8), address(4)?, port(addresses, 10))
        }
        36 => {
            let address = |at: usize| <[u8; 16]>::try_from(&addresses[at..at + 16]).map(Ipv6Addr::from).ok();
            format!("[{}]:{} [{}]:{}", address(0)?, port(addresses, 32), address(16)?, port(addresses, 34))
        }
        _ => "-".to_owned(),
    };
    let values: String = values.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("PROXY v2 {command} {told} TLVs {values}"))
}

fn port(addresses: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([addresses[at], addresses[at + 1]])
}
