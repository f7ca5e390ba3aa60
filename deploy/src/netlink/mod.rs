//! Messages to the kernel and back (netlink, RFC 3549): attributes, sockets, answers.
//!
//! Knows nothing of what the messages mean. Why by hand: images of weir hold nothing but weir, so there is no `nft` to call;
//! what is sent here are a dozen kinds of messages.

use std::io;
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink, sockopt};

/// `NLM_F_REQUEST` of linux/netlink.h.
const REQUEST: u16 = 1;
/// `NLM_F_ACK`.
const ACK: u16 = 4;
/// `NLM_F_ROOT | NLM_F_MATCH`.
const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`.
pub(crate) const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`.
pub(crate) const APPEND: u16 = 0x800;

/// `NLMSG_ERROR`, which is an answer of success too.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// How long the kernel may take. Loading a module may be part of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Attributes one after the other, each a type, a length and a value.
#[derive(Debug, Default, Clone)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    /// Adds bytes.
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a number as the network orders its bytes.
    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds a number as this machine orders its bytes.
    pub(crate) fn native(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Adds text with a zero at its end.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds attributes inside of one.
    pub(crate) fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    /// As they are sent.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The attributes that bytes from the kernel hold: types without flags, and values.
pub(crate) fn parse(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Whether what the kernel tells holds all that was asked for. It may hold more: defaults, and what newer kernels added.
pub(crate) fn holds(told: &[u8], wanted: &[u8]) -> bool {
    let mut rest = wanted;
    while let Some(head) = rest.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]);
        let Some(value) = rest.get(4..length) else { return false };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        let is_nested = kind & NESTED != 0;
        let same = |told: &[u8]| if is_nested { holds(told, value) } else { told == value };
        if !parse(told).any(|(told_kind, told)| told_kind == kind & 0x3fff && same(told)) {
            return false;
        }
    }
    true
}

/// Messages that are sent together.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    bytes: Vec<u8>,
    count: u32,
}

impl Messages {
    /// Adds a message: its type, the header of its family, and its attributes.
    pub(crate) fn add(&mut self, kind: u16, flags: u16, header: &[u8], attributes: &Attributes) {
        self.push(kind, flags | ACK, header, attributes);
    }

    /// Adds a message that is answered only if it is refused.
    pub(crate) fn add_unanswered(&mut self, kind: u16, flags: u16, header: &[u8], attributes: &Attributes) {
        self.push(kind, flags, header, attributes);
    }

    fn push(&mut self, kind: u16, flags: u16, header: &[u8], attributes: &Attributes) {
        let length = u32::try_from(16 + header.len() + attributes.0.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        // Numbered from 1: 0 is the kernel's own.
        self.count += 1;
        self.bytes.extend_from_slice(&self.count.to_ne_bytes());
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.extend_from_slice(header);
        self.bytes.extend_from_slice(&attributes.0);
    }
}

/// A netlink socket.
pub(crate) struct Kernel(OwnedFd);

impl Kernel {
    /// A socket to one part of the kernel; `None` is NETLINK_ROUTE, whose number is 0.
    ///
    /// # Errors
    /// The kernel has no such part, or sockets are forbidden.
    pub(crate) fn new(part: Option<Protocol>) -> io::Result<Self> {
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, part)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// Sends messages, all of which are carried out or none, and waits for the answers. Of many messages only the last should be
    /// answered: each answer takes its place in the socket's buffer, which has room for some two hundred.
    ///
    /// # Errors
    /// What the kernel says of the first that it refuses.
    pub(crate) fn tell(&self, messages: &Messages) -> io::Result<()> {
        self.make_room(messages.bytes.len())?;
        self.send(&messages.bytes)?;
        let answered = answered(&messages.bytes);
        let mut left = answered.len();
        let (mut refused, mut lost) = (None, false);
        while left > 0 {
            let received = match self.receive() {
                // More was refused than there is room to say. The first of it is there.
                Err(error) if !lost && error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                    lost = true;
                    continue;
                }
                received => received?,
            };
            for message in received.messages().filter(|message| message.kind == ERROR) {
                match message.error() {
                    // What is answered only then is the first that is wrong.
                    Some(error) if !answered.contains(&message.number) => return Err(error),
                    complaint => refused = refused.or(complaint),
                }
                left -= usize::from(answered.contains(&message.number));
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Has the socket take so many bytes at once, beyond what is usual for sockets of this machine: that takes CAP_NET_ADMIN, as
    /// do the messages.
    fn make_room(&self, bytes: usize) -> io::Result<()> {
        // The kernel counts the half of it for itself.
        if sockopt::socket_send_buffer_size(&self.0)? / 2 > bytes {
            return Ok(());
        }
        // Where it is forbidden the kernel says of the messages that they are too long.
        match sockopt::set_socket_send_buffer_size_force(&self.0, bytes + 4096) {
            Err(Errno::PERM) => Ok(()),
            made => Ok(made?),
        }
    }

    /// Asks for a list; gives what follows the header of each message.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn list(&self, kind: u16, header: &[u8], attributes: &Attributes) -> io::Result<Vec<Vec<u8>>> {
        let mut messages = Messages::default();
        messages.push(kind, DUMP, header, attributes);
        self.send(&messages.bytes)?;
        let mut found = Vec::new();
        loop {
            for message in self.receive()?.messages() {
                match message.kind {
                    DONE => return Ok(found),
                    ERROR => return message.error().map_or(Ok(found), Err),
                    _ => found.push(message.body.get(header.len()..).unwrap_or_default().to_vec()),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        rustix::net::sendto(&self.0, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    fn receive(&self) -> io::Result<Datagram> {
        let mut bytes = vec![0; 64 << 10];
        let (length, _) = rustix::net::recv(&self.0, &mut bytes[..], RecvFlags::empty())?;
        bytes.truncate(length);
        Ok(Datagram(bytes))
    }
}

/// The numbers of the messages that are answered.
fn answered(bytes: &[u8]) -> Vec<u32> {
    split(bytes).filter(|message| message.flags & ACK != 0).map(|message| message.number).collect()
}

struct Datagram(Vec<u8>);

impl Datagram {
    fn messages(&self) -> impl Iterator<Item = Message<'_>> {
        split(&self.0)
    }
}

struct Message<'b> {
    kind: u16,
    flags: u16,
    number: u32,
    body: &'b [u8],
}

impl Message<'_> {
    /// What an answer complains of.
    fn error(&self) -> Option<io::Error> {
        let code = i32::from_ne_bytes(*self.body.first_chunk()?);
        (code != 0).then(|| io::Error::from_raw_os_error(-code))
    }
}

fn split(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let head = bytes.first_chunk::<16>()?;
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let message = Message {
            kind: u16::from_ne_bytes([head[4], head[5]]),
            flags: u16::from_ne_bytes([head[6], head[7]]),
            number: u32::from_ne_bytes([head[8], head[9], head[10], head[11]]),
            body: bytes.get(16..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}
