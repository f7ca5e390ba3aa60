//! Opaque bytes: a listener with `protocol: tcp` carries them to an endpoint of its cluster and knows nothing of them; one
//! with `protocol: tls` looks at the server name first, and routes by it.
//!
//! A failed connect moves on to another endpoint. When there is none the caller is reset at once: a connection that opens
//! and then only closes would look like a service that is there and has nothing to say.

use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::HeaderMap;
use socket2::SockRef;
use tokio::net::TcpStream;
use weir_config::path::normalise_host;
use weir_config::snapshot::{Action, ClusterId, RuleId, Speaks};
use weir_config::{Decision, Facts, decide, decide_bytes};

use crate::drain::Member;
use crate::error::{BadRequest, Fault};
use crate::h1::wire::Wire;
use crate::http::admission::admit_opaque;
use crate::http::connection::Connection;
use crate::http::logged;
use crate::observe::Record;
use crate::opening::{Hello, Patience, client_hello};
use crate::policy::attempts::{self, Report};
use crate::socket::Socket;
use crate::state::listener::Current;
use crate::tunnel;
use crate::tunnel::side::Side;
use crate::upstream::Lease;

/// Serves a connection to its end. `begun` was read from the stream already.
pub async fn serve(connection: Rc<Connection>, stream: Socket, begun: BytesMut, member: Member, cluster: ClusterId) {
    connection.listener.shard.protocols[2].add(1);
    let current = connection.listener.current(&connection.worker);
    let mut record = Record::start(Instant::now());
    record.log = logged::opaque(&connection, &current, "");
    if let Err(fault) = admit_opaque(&connection, &current, None, &mut record.log) {
        reset(stream.tcp());
        return log(&connection, record, fault);
    }
    carry(&connection, &current, Wire::new(stream, begun), &member, (cluster, None), (None, record)).await;
}

/// Serves a connection that begins with a ClientHello to its end. `begun` was read from the stream already.
pub async fn pass_through(connection: Rc<Connection>, mut stream: Socket, mut begun: BytesMut, member: Member) {
    let patience = Patience::new(&connection.worker.alarms, &connection.listener.limits());
    let Ok(hello) = client_hello(&mut stream, &mut begun, &member, patience).await else { return };
    let Hello::Tls { name, mesh: _ } = hello else {
        connection.listener.shard.malformed.add(1);
        reset(stream.tcp());
        return refuse(&connection, Fault::BadRequest(BadRequest::NotTls));
    };
    connection.listener.shard.protocols[3].add(1);
    let name = name.unwrap_or_default();
    let current = connection.listener.current(&connection.worker);
    let mut record = Record::start(Instant::now());
    record.log = logged::opaque(&connection, &current, &name);
    let host = normalise_host(&name);
    // What the app's own TLS is for, an inbound listener need not believe: inside it may be for another host.
    let host = (connection.listener.speaks() == Speaks::Tls).then_some(&*host);
    if let Err(fault) = admit_opaque(&connection, &current, host, &mut record.log) {
        reset(stream.tcp());
        return log(&connection, record, fault);
    }
    match route(&connection, &current, &name, &mut record) {
        Some(cluster) => carry(&connection, &current, Wire::new(stream, begun), &member, (cluster, host), (None, record)).await,
        None => {
            record.fault = Some(Fault::NoRoute);
            let wire = Wire::new(stream, BytesMut::new());
            if poll_fn(|cx| wire.poll_write(cx, &[IoSlice::new(&UNRECOGNIZED_NAME)])).await.is_ok() {
                let _ = poll_fn(|cx| wire.poll_shutdown(cx)).await;
            }
        }
    }
}

/// Whoever a connection is for, called before it said anything.
pub struct Early {
    /// Where it goes.
    pub target: Target,
    /// The connection there, or why there is none.
    pub opened: Result<(Lease, Side), Fault>,
    /// How it was opened.
    pub report: Report,
}

/// Where a redirected connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// To an endpoint of this cluster.
    pub cluster: ClusterId,
    /// The rule that says so; `None` if it goes where it was going.
    rule: Option<RuleId>,
    generation: u64,
    /// By which it was chosen.
    draw: u64,
}

/// Where a redirected connection goes; `None` if it may not.
pub fn target(connection: &Connection, name: Option<&str>) -> Option<Target> {
    let current = connection.listener.current(&connection.worker);
    choose(connection, &current, name, connection.worker.draw())
}

fn choose(connection: &Connection, current: &Current, name: Option<&str>, draw: u64) -> Option<Target> {
    let to = connection.ends.destination;
    let chosen = decide_bytes(current.prepared.snapshot(), current.id, to, name, draw, &mut ())?;
    Some(Target { cluster: chosen.cluster, rule: chosen.rule, generation: current.prepared.generation(), draw })
}

/// Serves a redirected connection to its end: TLS that is for somebody else, with the `name` that it shows, or whatever else is
/// not HTTP. `begun` was read from the stream already.
pub async fn go_on(
    connection: Rc<Connection>,
    stream: Socket,
    begun: BytesMut,
    member: Member,
    name: Option<String>,
    early: Option<Early>,
) {
    connection.listener.shard.protocols[if name.is_some() { 3 } else { 2 }].add(1);
    let current = connection.listener.current(&connection.worker);
    let mut record = Record::start(Instant::now());
    record.log = logged::opaque(&connection, &current, name.as_deref().unwrap_or_default());
    let host = name.map(|name| normalise_host(&name).into_owned()).filter(|name| !name.is_empty());
    // What the caller's own TLS is for, an inbound listener need not believe: inside it may be for another host.
    let believed = host.as_deref().filter(|_| !connection.listener.is_inbound());
    if let Err(fault) = admit_opaque(&connection, &current, believed, &mut record.log) {
        reset(stream.tcp());
        return log(&connection, record, fault);
    }
    let draw = early.as_ref().map_or_else(|| connection.worker.draw(), |early| early.target.draw);
    let Some(target) = choose(&connection, &current, host.as_deref(), draw) else {
        connection.listener.shard.tcp_failed.add(1);
        reset(stream.tcp());
        return log(&connection, record, Fault::NoRoute);
    };
    if let (Some(log), Some(rule)) = (&mut record.log, target.rule) {
        let rule = current.prepared.snapshot().rule(rule);
        log.rule = rule.name.clone();
        log.route = current.prepared.snapshot().route(rule.route).name.clone();
    }
    let early = early.filter(|early| early.target == target);
    carry(&connection, &current, Wire::new(stream, begun), &member, (target.cluster, believed), (early, record)).await;
}

/// The fatal alert `unrecognized_name` (RFC 6066, section 3) in a record of its own.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// The cluster for a server name.
fn route(connection: &Connection, current: &Current, name: &str, record: &mut Record) -> Option<ClusterId> {
    let snapshot = current.prepared.snapshot();
    let no_headers = HeaderMap::new();
    let name = normalise_host(name);
    let facts = Facts::of_tls(&name, &no_headers);
    match decide(snapshot, current.id, &facts, connection.worker.draw(), &mut ()) {
        Decision::Forward { rule, backend } => {
            let found = snapshot.rule(rule);
            if let Some(log) = &mut record.log {
                log.rule = found.name.clone();
                log.route = snapshot.route(found.route).name.clone();
            }
            let Action::Forward(split) = &found.action else { return None };
            Some(split.backends[backend].cluster)
        }
        Decision::None(_) | Decision::Redirect(_) | Decision::Respond(_) => None,
    }
}

async fn carry(
    connection: &Connection,
    current: &Current,
    caller: Rc<Wire>,
    member: &Member,
    (cluster, host): (ClusterId, Option<&str>),
    (early, mut record): (Option<Early>, Record),
) {
    let worker = &connection.worker;
    let cluster = current.prepared.cluster(worker, cluster);
    cluster.count_passed_through(&connection.ends);
    let shard = &connection.listener.shard;
    if let Some(log) = &mut record.log {
        log.cluster = cluster.config().name.clone();
    }
    let (opened, report) = match early {
        Some(Early { opened, report, .. }) => (opened, report),
        None => {
            let mut report = Report::default();
            let opened = attempts::open(&cluster, worker, &connection.ends, &mut report).await;
            (opened, report)
        }
    };
    record.tried(report.attempts, report.denied, report.upstream);
    let (_lease, upstream) = match opened {
        Ok(opened) => opened,
        Err(fault) => {
            tracing::debug!(peer = %connection.ends.peer, reason = fault.code(), "TCP connection reset");
            record.fault = Some(fault);
            shard.tcp_failed.add(1);
            return caller.with_tcp(reset);
        }
    };
    let caller = Side::Wire(caller);
    let count = |up, down| {
        shard.tcp_bytes[0].add(up);
        shard.tcp_bytes[1].add(down);
    };
    let mut refused = None;
    let mut carrying = pin!(tunnel::carry(&caller, &upstream, Some(member), worker.tools(), &count));
    let carried = poll_fn(|cx| {
        if member.take_question() {
            let current = connection.listener.current(worker);
            refused = admit_opaque(connection, &current, host, &mut record.log).err();
            if refused.is_some() {
                member.abort();
            }
        }
        carrying.as_mut().poll(cx)
    })
    .await;
    record.carried(carried.up, carried.down, refused.or(carried.fault));
}

/// Has the caller see a reset when the connection closes.
pub fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Logs a connection that is not served.
pub fn refuse(connection: &Connection, fault: Fault) {
    let current = connection.listener.current(&connection.worker);
    let mut record = Record::start(Instant::now());
    record.log = logged::opaque(connection, &current, "");
    log(connection, record, fault);
}

fn log(connection: &Connection, mut record: Record, fault: Fault) {
    tracing::debug!(peer = %connection.ends.peer, reason = fault.code(), "connection refused");
    record.fault = Some(fault);
}
