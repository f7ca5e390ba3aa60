//! `weir dev`: services of one machine, in one command and without privileges.

use std::path::Path;
use std::time::Duration;

use weir_tests::peers::Peer;
use weir_tests::pod::{Pod, Program};
use weir_tests::weir::binary;
use weir_tests::{Result, Trial, holds, same, test_with, until};

use super::pods::APP;
use super::weir;

pub(super) fn trials() -> Vec<Trial> {
    let needs = ["curl", "setpriv", "redis-server", "redis-cli"].map(Peer::Program).into_iter().chain([Peer::Namespaces]);
    let needs: Vec<Peer> = needs.collect();
    vec![
        test_with("deploy::dev::services_find_each_other_and_the_file_is_followed", &needs, services),
        test_with("deploy::dev::a_command_is_one_of_the_services", &needs, command),
        test_with("deploy::dev::what_is_wrong_is_said", &needs, mistakes),
        test_with("deploy::dev::told_twice_or_killed_nothing_is_left", &needs, accidents),
        test_with("deploy::dev::who_does_not_read_keeps_nobody", &needs, unread),
    ]
}

fn mesh() -> String {
    format!(
        "services:
  web: {{ port: 8080, run: 'exec python3 {APP} 127.0.0.1 $PORT' }}
  cart: {{ port: 8081, run: 'exec python3 {APP} 127.0.0.1 $PORT' }}
  cache: {{ port: 7000, protocol: tcp, run: 'exec redis-server --port $PORT --save \"\"' }}
  shell: {{ port: 8083 }}
routes:
  - name: web
    hosts: [web]
    rules:
      - {{ match: [{{ path: {{ prefix: /cart }} }}], backends: [{{ cluster: cart }}] }}
      - {{ backends: [{{ cluster: web }}] }}
"
    )
}

/// A directory that anybody may read, and a pod, for ports are given.
fn place(mesh: &str) -> Result<(tempfile::TempDir, Pod)> {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755))?;
    std::fs::write(dir.path().join("mesh.yaml"), mesh)?;
    std::fs::copy(binary(), dir.path().join("weir"))?;
    Ok((dir, Pod::new()?))
}

/// As somebody who may nothing.
fn dev(dir: &Path, pod: &Pod, arguments: &[&str]) -> Result<Program> {
    let mut command = pod.command("setpriv");
    command.args(["--reuid", "4711", "--regid", "4711", "--clear-groups", "--no-new-privs"]).arg(dir.join("weir"));
    command.arg("dev").arg(dir.join("mesh.yaml")).args(arguments).current_dir("/");
    Program::start(command)
}

async fn services() -> Result {
    let (dir, pod) = place(&mesh())?;
    let mut running = dev(dir.path(), &pod, &[])?;
    for said in ["http://web.localhost:15001/", "web | serving", "cart | serving"] {
        running.wait_for(said)?;
    }
    let curl = |arguments: &str| pod.run(&format!("curl -sS -m 5 {arguments} 2>&1 || true"));
    // By name, through the proxy, and by port.
    same!(curl("http://web.localhost:15001/")?, "ok\n");
    same!(curl("-x http://127.0.0.1:15001 http://cart/")?, "ok\n");
    same!(curl("-H 'host: anything' http://127.0.0.1:20010/cart/x")?, "ok\n");
    running.wait_for("you: GET anything/cart/x -> cart 200")?;
    until("the cache answers", async || pod.run("redis-cli -p 20012 ping").is_ok_and(|said| said == "PONG\n")).await?;
    // Between sidecars everybody shows who they are.
    holds!(!curl("http://127.0.0.1:16001/")?.contains("ok"), "in the clear nobody comes in");
    holds!(curl("http://127.0.0.1:16000/certs")?.contains("spiffe://dev.localhost/ns/dev/sa/web"));
    // A person asks why.
    let told = curl("'http://127.0.0.1:15000/explain?listener=outbound&url=http://web/cart'")?;
    holds!(told.contains("Backends\n  cart "), "{told}");

    // Saved with a mistake, everything goes on; saved right, it changes.
    let file = dir.path().join("mesh.yaml");
    std::fs::write(&file, mesh().replace("cluster: cart }", "cluster: crat }"))?;
    running.wait_for("did you mean `cart`?")?;
    holds!(running.complaints()?.contains("mesh.yaml:10:"), "{}", running.complaints()?);
    same!(curl("http://web.localhost:15001/")?, "ok\n");
    let changed = mesh()
        .replace("prefix: /cart", "prefix: /")
        .replace("  shell: { port: 8083 }\n", "  more: { port: 8084, run: 'echo up; exec sleep 600' }\n");
    std::fs::write(&file, changed)?;
    running.wait_for("mesh.yaml is in force")?;
    running.wait_for("more | up")?;
    let moved = async || {
        let _ = curl("http://web.localhost:15001/moved");
        running.output().is_ok_and(|said| said.contains("web.localhost:15001/moved -> cart 200"))
    };
    until("the new route is followed", moved).await?;
    same!(curl("http://127.0.0.1:16300/ready")?, "ready\n", "a new service takes the place of the one that is gone");
    holds!(running.ended()?.is_none());
    running.signal(libc::SIGINT);
    holds!(running.wait(Duration::from_secs(12))?.success());
    holds!(!pod.run("ss -Htln")?.contains("127.0.0.1"), "nobody is left: {}", pod.run("ss -Htlnp")?);
    Ok(())
}

/// Somebody who does not leave is no reason to wait for, and none to stay.
async fn accidents() -> Result {
    let stubborn = "  stubborn: { port: 8085, run: \"trap '' TERM; echo here; exec python3 -m http.server $PORT\" }\nroutes:";
    let (dir, pod) = place(&mesh().replace("routes:", stubborn))?;
    let mut first = pod.command("python3");
    first.args([APP, "127.0.0.1", "8080"]);
    let mut first = Program::start(first)?;
    first.wait_for("serving")?;
    let mut second = dev(dir.path(), &pod, &[])?;
    second.wait_for("web: somebody else listens on 127.0.0.1:8080 already")?;
    second.signal(libc::SIGKILL);
    second.wait(Duration::from_secs(12))?;
    drop(first);
    let started = || -> Result<Program> {
        let mut running = dev(dir.path(), &pod, &[])?;
        for said in ["web | serving", "stubborn | here", "configurations and certificates: "] {
            running.wait_for(said)?;
        }
        Ok(running)
    };
    let nobody_listens = async || pod.run("ss -Htln").is_ok_and(|listening| !listening.contains("127.0.0.1"));
    until("the first is gone, and all that were beside it", nobody_listens).await?;
    let mut twice = started()?;
    holds!(!twice.output()?.contains("somebody else"), "{}", twice.output()?);
    twice.signal(libc::SIGINT);
    twice.wait_for("waiting for stubborn to leave")?;
    twice.signal(libc::SIGINT);
    holds!(twice.wait(Duration::from_secs(12))?.success());
    let said = twice.output()?;
    holds!(said.contains("told twice") && !said.contains("does not leave"), "{said}");
    holds!(nobody_listens().await, "{}", pod.run("ss -Htlnp")?);

    let mut killed = started()?;
    let said = killed.output()?;
    let place = said.lines().find_map(|line| line.split_once("configurations and certificates: ")).ok_or("no place")?.1;
    holds!(Path::new(place).join("web/tls.key").exists(), "{place}");
    killed.signal(libc::SIGKILL);
    killed.wait(Duration::from_secs(12))?;
    until("the services are gone", nobody_listens).await?;
    until("the keys are gone", async || !Path::new(place).exists()).await
}

async fn command() -> Result {
    let (dir, pod) = place(&mesh())?;
    let work = "curl -sS -m 5 \"$WEB_URL/a\" && curl -sS -m 5 http://cart/ && echo port $PORT && exit 7";
    let mut running = dev(dir.path(), &pod, &["--", "sh", "-c", work])?;
    same!(running.wait(Duration::from_secs(20))?.code(), Some(7), "{}{}", running.output()?, running.complaints()?);
    let said = running.output()?;
    // The one service that nothing else starts.
    holds!(said.contains("port 8083"), "{said}");
    holds!(said.contains("shell: GET") && said.contains(" -> web "), "{said}");
    // As whom it likes, and with a service elsewhere.
    let away = [
        "--as",
        "web",
        "--remote",
        "cart=http://127.0.0.1:1",
        "--",
        "sh",
        "-c",
        "curl -s -o /dev/null -w '%{http_code}' $CART_URL; exit $PORT",
    ];
    let mut running = dev(dir.path(), &pod, &away)?;
    same!(running.wait(Duration::from_secs(20))?.code(), Some(8080 % 256));
    holds!(running.output()?.contains("503"), "{}", running.output()?);
    holds!(!running.output()?.contains("web | "), "the command is in place of what the file starts: {}", running.output()?);
    // And so it can listen where the service does.
    let app = format!("exec python3 {APP} 127.0.0.1 $PORT");
    let mut running = dev(dir.path(), &pod, &["--as", "web", "--", "sh", "-c", &app])?;
    let answers = async || pod.run("curl -sS -m 5 http://web.localhost:15001/").is_ok_and(|said| said == "ok\n");
    until("the command answers as the service", answers).await?;
    // The terminal is gone.
    running.signal(libc::SIGHUP);
    holds!(running.wait(Duration::from_secs(12)).is_ok(), "{}", running.complaints()?);
    Ok(())
}

/// A `weir dev` that is told to leave, and has its time for that, however the test ends.
struct Loud(std::process::Child);

impl Drop for Loud {
    fn drop(&mut self) {
        for _ in 0..1000 {
            if self.0.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            // SAFETY: kill touches no memory of ours, and the process is a child that nobody has waited for.
            unsafe { libc::kill(self.0.id().cast_signed(), libc::SIGTERM) };
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Standard output leads to a pipe that is full; an app that has ended is started again by saving the file.
async fn unread() -> Result {
    let loud = "services: { loud: { port: 8080, run: 'yes' }, once: { port: 8081, run: 'echo up >>/tmp/once; exit 3' } }\n";
    let (dir, pod) = place(loud)?;
    let ups = dir.path().join("ups");
    std::fs::create_dir(&ups)?;
    std::fs::set_permissions(&ups, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let file = dir.path().join("mesh.yaml");
    let text = loud.replace("/tmp/once", &ups.join("once").display().to_string());
    std::fs::write(&file, &text)?;
    let mut command = pod.command("setpriv");
    command.args(["--reuid", "4711", "--regid", "4711", "--clear-groups", "--no-new-privs"]).arg(dir.path().join("weir"));
    command.arg("dev").arg(&file).current_dir("/").stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    // Whatever fails here, nobody must go on shouting.
    let running = std::cell::RefCell::new(Loud(command.spawn()?));
    let began = |times: usize| {
        let said = std::fs::read_to_string(ups.join("once"));
        said.is_ok_and(|said| said.lines().count() >= times)
    };
    until("it has begun", async || began(1)).await?;
    until("nobody reads it", async || unread_of(&running.borrow().0).is_some_and(|bytes| bytes > 60_000)).await?;
    let saved = std::cell::Cell::new(1);
    until("it is started again", async || {
        saved.set(saved.get() + 1);
        let _ = std::fs::write(&file, format!("{text}# {}\n", saved.get()));
        began(2)
    })
    .await?;
    // SAFETY: kill touches no memory of ours, and the process is a child that nobody has waited for.
    same!(unsafe { libc::kill(running.borrow().0.id().cast_signed(), libc::SIGINT) }, 0);
    until("it has left", async || running.borrow_mut().0.try_wait().is_ok_and(|ended| ended.is_some())).await?;
    Ok(())
}

/// How many bytes of what a process has said wait in the pipe.
fn unread_of(process: &std::process::Child) -> Option<libc::c_int> {
    let pipe = std::os::fd::AsRawFd::as_raw_fd(process.stdout.as_ref()?);
    let mut bytes = 0;
    // SAFETY: the pipe is open as long as the process is borrowed, and FIONREAD writes one `c_int`.
    let done = unsafe { libc::ioctl(pipe, libc::FIONREAD, &raw mut bytes) };
    (done == 0).then_some(bytes)
}

async fn mistakes() -> Result {
    let said = weir(&["dev", "/nowhere.yaml"], "")?;
    holds!(!said.ok && said.err.contains("weir dev --example"), "{}", said.err);
    let example = weir(&["dev", "--example"], "")?;
    holds!(example.ok && example.out.contains("services:"));
    let (dir, pod) = place("services: { Web: { port: 1 }, a: { prt: 2 } }\n")?;
    let mut running = dev(dir.path(), &pod, &[])?;
    same!(running.wait(Duration::from_secs(10))?.code(), Some(1));
    holds!(running.complaints()?.contains("3 mistakes in"), "{}", running.complaints()?);
    // Somebody is there already.
    let (dir, pod) = place(&mesh())?;
    let mut taken = pod.command("python3");
    taken.args([APP, "127.0.0.1", "15001"]);
    let mut taken = Program::start(taken)?;
    taken.wait_for("serving")?;
    let mut running = dev(dir.path(), &pod, &[])?;
    same!(running.wait(Duration::from_secs(20))?.code(), Some(1));
    let said = running.complaints()?;
    holds!(said.contains("127.0.0.1:15001") && said.contains("in use") && said.contains("`--base-port`"), "{said}");
    for (arguments, wanted) in
        [(&["--remote", "cart=cart.example"][..], "write SERVICE=URL"), (&["--remote", "cart"], "write SERVICE=URL")]
    {
        let said = weir(&[&["dev", "mesh.yaml"], arguments].concat(), "")?;
        holds!(!said.ok && said.err.contains(wanted), "{arguments:?}: {}", said.err);
    }
    for arguments in [["--port", "0"], ["--base-port", "65500"]] {
        let said = weir(&[&["dev", "mesh.yaml"], &arguments[..]].concat(), "")?;
        holds!(!said.ok && said.err.contains(arguments[0]) && said.err.contains("not in"), "{arguments:?}: {}", said.err);
    }
    let mut running = dev(dir.path(), &pod, &["--as", "nobody", "--port", "15002", "--", "true"])?;
    holds!(!running.wait(Duration::from_secs(20))?.success());
    holds!(running.complaints()?.contains("known: web, cart, cache, shell"), "{}", running.complaints()?);
    // Whatever goes wrong, nobody is left behind.
    let mut running = dev(dir.path(), &pod, &["--port", "15002", "--", "/no/such/command"])?;
    holds!(!running.wait(Duration::from_secs(30))?.success());
    same!(pod.run("ss -Htln | grep -v :15001 || true")?, "");
    Ok(())
}
