//! Standing beside a service without its knowing: rules of the kernel, and what comes by them.

mod flow;
mod preserve;
mod rules;
mod unchanged;
mod wire;

use weir_tests::pod::{Pod, Program, join, weir};
use weir_tests::{Result, Trial};

pub fn trials() -> Vec<Trial> {
    [rules::trials(), flow::trials(), preserve::trials(), unchanged::trials(), wire::trials()].into_iter().flatten().collect()
}

const SIDECAR: &str = "
admin: { listen: 127.0.0.1:15000 }
probes: { listen: 0.0.0.0:15020 }
access_log: { path: stdout }
listeners:
  - { name: inbound, listen: ['0.0.0.0:15006', '[::]:15006'], direction: inbound, original_destination: true }
  - { name: outbound, listen: ['127.0.0.1:15001', '[::1]:15001'], direction: outbound, original_destination: true }
";

/// Two pods that reach each other as 10.0.0.1 and .2, fd00:0::1 and ::2.
struct Pair {
    client: Pod,
    server: Pod,
    programs: Vec<Program>,
    dir: tempfile::TempDir,
}

impl Pair {
    fn new(install: &str) -> Result<Self> {
        let (client, server) = (Pod::new()?, Pod::new()?);
        join(&client, &server, 0)?;
        for pod in [&client, &server] {
            pod.run(&format!("{CAPABLE} {} redirect install {install}", weir_tests::weir::binary().display()))?;
        }
        Ok(Self { client, server, programs: Vec::new(), dir: tempfile::tempdir()? })
    }

    /// A weir in each, with the same configuration.
    fn with_sidecars(install: &str, client: &str, server: &str) -> Result<Self> {
        let mut pair = Self::new(install)?;
        pair.programs.push(weir(&pair.client, client)?);
        pair.programs.push(weir(&pair.server, server)?);
        Ok(pair)
    }

    /// A server of HTTP that says on which address it was asked, and whether by HTTP/1 or HTTP/2.
    fn serve_http(&mut self, listens: &[&str]) -> Result {
        self.serve_nginx(listens, "$server_port by $server_protocol")
    }

    /// A server of HTTP that says `answer`, in which nginx's variables count.
    fn serve_nginx(&mut self, listens: &[&str], answer: &str) -> Result {
        let path = self.dir.path().display();
        let servers: String = listens
            .iter()
            .map(|listen| format!("server {{ listen {listen}; location / {{ return 200 \"{answer}\\n\"; }} }}\n"))
            .collect();
        let conf = format!(
            "daemon off; master_process off; pid {path}/pid; error_log stderr; events {{}}
             http {{ access_log off; client_body_temp_path {path}/b; proxy_temp_path {path}/p; fastcgi_temp_path {path}/f;
                     uwsgi_temp_path {path}/u; scgi_temp_path {path}/s; {servers} }}"
        );
        let file = self.dir.path().join("nginx.conf");
        std::fs::write(&file, conf)?;
        let mut nginx = self.server.command("nginx");
        nginx.arg("-c").arg(&file).args(["-e", "stderr"]);
        self.programs.push(Program::start(nginx)?);
        let port = listens.first().and_then(|listen| listen.split_whitespace().next()).unwrap_or_default();
        self.listening(port.rsplit(':').next().unwrap_or_default())
    }

    fn serve_redis(&mut self, port: u16) -> Result {
        let mut redis = self.server.command("redis-server");
        redis.args(["--port", &port.to_string(), "--protected-mode", "no", "--save", "", "--bind", "*", "-::*"]);
        self.programs.push(Program::start(redis)?);
        self.listening(&port.to_string())
    }

    /// PostgreSQL, for callers from anywhere, without a password.
    fn serve_postgres(&mut self, port: u16) -> Result {
        let data = self.dir.path().join(format!("data{port}"));
        std::fs::set_permissions(self.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
        let script = format!(
            "mkdir {0} && chown nobody {0} && bin=$(echo /usr/lib/postgresql/*/bin) && as='setpriv --reuid=nobody --clear-groups' && \
             $as $bin/initdb --no-sync --auth=trust --username=postgres --encoding=UTF8 --locale=C -D {0} >/dev/null && \
             exec $as $bin/postgres -p {port} -D {0} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off \
             -c shared_buffers=16MB 2>/dev/null",
            data.display()
        );
        let mut postgres = self.server.command("sh");
        postgres.args(["-c", &script]);
        self.programs.push(Program::start(postgres)?);
        self.listening(&port.to_string())
    }

    /// gRPC; gives the port.
    fn serve_grpc(&mut self) -> Result<u16> {
        let mut server = self.server.command("python3");
        server.args([GRPC, "serve"]);
        let mut server = Program::start(server)?;
        server.wait_for("\n")?;
        let port = server.output()?.trim().parse()?;
        self.programs.push(server);
        Ok(port)
    }

    fn serve_greetings(&mut self, address: &str, port: u16) -> Result {
        let mut server = self.server.command("python3");
        server.args([TALK, "serve", address, &port.to_string()]);
        let mut server = Program::start(server)?;
        server.wait_for("serving")?;
        self.programs.push(server);
        Ok(())
    }

    /// Waits until the server listens on a port.
    fn listening(&self, port: &str) -> Result {
        for _ in 0..2000 {
            if self.server.run(&format!("ss -Hltn sport = :{port}"))?.contains("LISTEN") {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Err(format!("nobody listens on {port}").into())
    }

    fn curl(&self, arguments: &str) -> Result<String> {
        self.client.run(&format!("curl -sS -m 10 {arguments} 2>&1 || echo exit=$?"))
    }

    fn talk(&self, arguments: &str) -> Result<String> {
        Ok(self.client.run(&format!("python3 {TALK} {arguments}"))?.trim().to_owned())
    }

    /// The sum of a counter of one of the weirs over all series that have these labels.
    fn counter(&self, pod: &Pod, name: &str, labels: &str) -> Result<u64> {
        let metrics = pod.run("curl -sS http://127.0.0.1:15000/metrics")?;
        let lines = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(labels));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }
}

/// Runs what follows as a user whose connections are left alone.
/// As root, with no capability but those that installing rules needs.
const CAPABLE: &str = "setpriv --bounding-set=-all,+net_admin,+net_raw --inh-caps=-all";
const DIRECT: &str = "setpriv --reuid 1337 --clear-groups";
/// The same by the group, for programs that only root may run.
const UNSEEN: &str = "setpriv --regid 1337 --clear-groups";
const GRPC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/grpc_peer.py");
const TALK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/talk_peer.py");
