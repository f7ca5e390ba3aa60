//! Opaque TCP: a listener with `protocol: tcp` carries bytes to an endpoint of its cluster and knows nothing of them.
//!
//! A failed connect moves on to another endpoint. When there is none the caller is reset at once: a connection that opens
//! and then only closes would look like a service that is there and has nothing to say.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use socket2::SockRef;
use tokio::net::TcpStream;
use weir_config::snapshot::ClusterId;

use crate::drain::Member;
use crate::h1::wire::Wire;
use crate::http::connection::Connection;
use crate::http::logged;
use crate::observe::Record;
use crate::policy::attempts::{self, Report};
use crate::tunnel;

/// Serves a connection to its end.
pub async fn serve(connection: Rc<Connection>, stream: TcpStream, member: Member, cluster: ClusterId) {
    let worker = &connection.worker;
    let current = connection.listener.current(worker);
    let cluster = current.prepared.cluster(worker, cluster);
    let shard = &connection.listener.shard;
    shard.protocols[2].add(1);
    let mut record = Record::start(Instant::now());
    record.log = logged::opaque(&connection, &current, &cluster.config().name);
    let mut report = Report::default();
    let opened = attempts::open(&cluster, worker, &mut report).await;
    record.tried(report.attempts, report.denied, report.upstream);
    let lease = match opened {
        Ok(lease) => lease,
        Err(fault) => {
            tracing::debug!(peer = %connection.peer, reason = fault.code(), "TCP connection reset");
            record.fault = Some(fault);
            shard.tcp_failed.add(1);
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            return;
        }
    };
    let Some(upstream) = lease.wire() else { return };
    let caller = Wire::new(stream, BytesMut::new());
    let count = |up, down| {
        shard.tcp_bytes[0].add(up);
        shard.tcp_bytes[1].add(down);
    };
    let carried = tunnel::carry(&caller, &upstream, &member, &worker.alarms, &count).await;
    record.bytes_in = carried.up;
    record.bytes_out = carried.down;
    record.complete();
}
