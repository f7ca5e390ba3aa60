//! Opaque TCP: as many bytes as go through, or small messages there and back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Found;

/// Sends for so long over so many connections, and gives how many bytes the kernel took. The origin only reads.
///
/// # Errors
/// A connection breaks.
pub fn stream(port: u16, connections: usize, time: Duration) -> Result<u64> {
    let until = Instant::now() + time;
    let one = move || -> Result<u64> {
        let mut connection = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
        let chunk = vec![b'x'; 1 << 18];
        let mut sent = 0;
        while Instant::now() < until {
            sent += connection.write(&chunk)? as u64;
        }
        Ok(sent)
    };
    let threads: Vec<_> = (0..connections).map(|_| std::thread::spawn(one)).collect();
    threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a sender failed"))).sum()
}

/// Sends a message of 200 bytes over each connection, waits until it is back, and so on. The origin sends everything back.
///
/// # Errors
/// A connection breaks.
pub fn exchange(port: u16, connections: usize, time: Duration) -> Result<Found> {
    let began = Instant::now();
    let one = move || -> Result<Found> {
        let mut connection = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
        connection.set_nodelay(true)?;
        let mut found = Found::nothing();
        let mut message = [b'm'; 200];
        while began.elapsed() < time {
            let sent = Instant::now();
            connection.write_all(&message)?;
            connection.read_exact(&mut message)?;
            found.answered += 1;
            found.latencies.record(u64::try_from(sent.elapsed().as_micros())?)?;
        }
        Ok(found)
    };
    let threads: Vec<_> = (0..connections).map(|_| std::thread::spawn(one)).collect();
    let mut all = Found::nothing();
    for thread in threads {
        let found = thread.join().unwrap_or_else(|_| anyhow::bail!("a sender failed"))?;
        all.answered += found.answered;
        all.latencies.add(found.latencies)?;
    }
    all.seconds = began.elapsed().as_secs_f64();
    Ok(all)
}
