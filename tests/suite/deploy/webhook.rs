//! The admission webhook, asked as an API server asks it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use weir_deploy::manifest::json::{from_json, to_json};
use weir_deploy::manifest::{self, Document, Node};
use weir_tests::peers::{self, Peer};
use weir_tests::pod::Program;
use weir_tests::weir::binary;
use weir_tests::{Result, Trial, holds, same, test_with, until};

pub(super) fn trials() -> Vec<Trial> {
    let needs = [Peer::Program("curl"), Peer::Program("openssl"), Peer::Python("kubernetes_validate"), Peer::Python("yaml")];
    vec![
        test_with("deploy::webhook::every_pod_gets_its_sidecar_and_nonsense_an_answer", &needs, reviews),
        test_with("deploy::webhook::its_own_certificate_is_known_to_the_api_server", &needs, own_certificate),
        test_with("deploy::webhook::the_api_server_is_asked_as_a_pod_asks_it", &needs, as_a_pod),
    ]
}

/// A webhook, and by what it is known.
struct Webhook {
    program: Program,
    address: String,
    root: std::path::PathBuf,
}

impl Webhook {
    async fn start(arguments: &[&str], root: &Path) -> Result<Self> {
        let mut command = Command::new(binary());
        command.args(["webhook", "--json", "--listen", "127.0.0.1:0"]).args(arguments);
        let mut program = Program::start(command)?;
        program.wait_for("webhook listening")?;
        let said = program.complaints()?;
        let line = said.lines().find(|line| line.contains("webhook listening")).ok_or("no line")?;
        let address = serde_json::from_str::<Value>(line)?["address"].as_str().ok_or("no address")?.to_owned();
        Ok(Self { program, address, root: root.to_owned() })
    }

    /// Status and body.
    fn ask(&self, arguments: &[&str], body: Option<&str>, path: &str) -> Result<(u16, String)> {
        use std::io::Write;
        let port = self.address.rsplit(':').next().unwrap_or_default();
        let name = format!("weir-webhook.weir-system.svc:{port}");
        let mut curl = Command::new("curl");
        curl.args(["-s", "-m", "10", "-w", "\n%{http_code}", "--connect-to", &format!("{name}:{}", self.address), "--cacert"]);
        curl.arg(&self.root).args(arguments).arg(format!("https://{name}{path}"));
        if body.is_some() {
            curl.args(["-H", "content-type: application/json", "--data-binary", "@-"]);
        }
        let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().ok_or("no stdin")?;
        let body = body.unwrap_or_default().to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(body.as_bytes()));
        let done = child.wait_with_output()?;
        let _ = writer.join();
        let said = String::from_utf8(done.stdout)?;
        let (body, status) = said.rsplit_once('\n').ok_or("no status")?;
        Ok((status.trim().parse()?, body.to_owned()))
    }

    fn review(&self, pod: &Value, http: &str) -> Result<Value> {
        let review = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "0df28fbd-5f5f-11e8-bc74-36e6bb280816", "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" }, "namespace": "shop", "operation": "CREATE",
            "object": pod, "oldObject": null, "dryRun": false, "options": { "kind": "CreateOptions" }
        } });
        let (status, said) = self.ask(&[http], Some(&review.to_string()), "/inject")?;
        same!(status, 200, "{said}");
        let answer: Value = serde_json::from_str(&said)?;
        same!((&answer["kind"], &answer["apiVersion"]), (&json!("AdmissionReview"), &json!("admission.k8s.io/v1")));
        same!(answer["response"]["uid"], review["request"]["uid"]);
        Ok(answer["response"].clone())
    }
}

/// All pods of a document.
fn pods(node: &Node, found: &mut Vec<Value>) {
    let kind = node.get("kind").and_then(Node::as_text).unwrap_or_default();
    let path: &[&str] = match kind {
        "List" => {
            node.get("items").into_iter().flat_map(Node::items).for_each(|item| pods(item, found));
            return;
        }
        "Pod" => &[],
        "CronJob" => &["spec", "jobTemplate", "spec", "template"],
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" => &["spec", "template"],
        _ => return,
    };
    if let Some(pod) = node.at(path) {
        let mut pod = to_json(pod);
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        if pod["metadata"]["name"].is_null() {
            pod["metadata"]["name"] = "made".into();
        }
        found.push(pod);
    }
}

fn every_pod() -> Result<Vec<Value>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let documents = manifest::read(&std::fs::read_to_string(&path)?).map_err(|mistake| mistake.to_string())?;
            documents.iter().filter_map(|document| document.root.as_ref()).for_each(|root| pods(root, &mut found));
        }
    }
    Ok(found)
}

fn openssl(arguments: &str, dir: &Path) -> Result {
    let done = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output()?;
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned().into()) }
}

/// A certificate that somebody else has made, as cert-manager would.
fn certificate(dir: &Path, name: &str) -> Result {
    openssl(
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name} -addext \
             subjectAltName=DNS:weir-webhook.weir-system.svc -keyout {name}.key -out {name}.crt"
        ),
        dir,
    )
}

async fn reviews() -> Result {
    let dir = tempfile::tempdir()?;
    certificate(dir.path(), "one")?;
    certificate(dir.path(), "two")?;
    let file = |name: &str| dir.path().join(name);
    std::fs::copy(file("one.crt"), file("tls.crt"))?;
    std::fs::copy(file("one.key"), file("tls.key"))?;
    let (cert, key) = (file("tls.crt").display().to_string(), file("tls.key").display().to_string());
    let mut webhook = Webhook::start(&["--cert", &cert, "--key", &key], &file("one.crt")).await?;
    same!(webhook.ask(&[], None, "/ready")?, (200, "ready\n".to_owned()));

    let (mut injected, mut left, mut written) = (0, 0, Vec::new());
    for (place, pod) in every_pod()?.iter().enumerate() {
        let http = if place % 2 == 0 { "--http1.1" } else { "--http2" };
        let response = webhook.review(pod, http)?;
        same!(response["allowed"], true, "{response}");
        let Some(patch) = response["patch"].as_str() else {
            left += 1;
            holds!(response["auditAnnotations"]["outcome"].as_str().is_some_and(|said| said.starts_with("left alone")));
            continue;
        };
        injected += 1;
        same!(response["patchType"], "JSONPatch");
        let patch: json_patch::Patch = serde_json::from_slice(&STANDARD.decode(patch)?)?;
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &patch)?;
        same!(webhook.review(&patched, http)?.get("patch"), None, "asked again it changes nothing");
        let file = file(&format!("{place}.yaml")).display().to_string();
        std::fs::write(&file, manifest::write(&[Document { comments: Vec::new(), root: Some(from_json(&patched)) }]))?;
        written.push(file);
    }
    holds!(injected >= 50 && left >= 9, "{injected} {left}");
    let peer = format!("{}/peers/manifest_peer.py", env!("CARGO_MANIFEST_DIR"));
    let judged = Command::new("python3").args([&peer, "valid", "1.37"]).args(&written).output()?;
    holds!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stdout));

    for (body, status, word) in [
        ("nonsense", 400, "no JSON"),
        ("{}", 400, "admissionReviewVersions"),
        (r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1beta1","request":{"uid":"1"}}"#, 400, "v1beta1"),
        (&"x".repeat(9 << 20), 413, "8 MiB"),
    ] {
        let (got, said) = webhook.ask(&["--http1.1"], Some(body), "/inject")?;
        holds!(got == status && said.contains(word), "{}: {got} {said}", &body[..body.len().min(80)]);
    }
    let wrong = webhook.review(
        &json!({ "metadata": { "annotations": { "weir.proxy/native": "?" } }, "spec": { "containers": [{ "name": "a" }] } }),
        "-4",
    )?;
    holds!(
        wrong["allowed"] == false && wrong["status"]["message"].as_str().is_some_and(|said| said.contains("weir.proxy/native"))
    );
    same!(webhook.ask(&[], None, "/inject")?.0, 405);
    same!(webhook.ask(&[], None, "/")?.0, 404);

    // A new certificate is taken, the key first; callers that know the old one are then refused.
    std::fs::copy(file("two.key"), file("tls.key"))?;
    std::fs::copy(file("two.crt"), file("tls.crt"))?;
    webhook.root = file("two.crt");
    until("the new certificate is shown", async || webhook.ask(&[], None, "/ready").is_ok_and(|(status, _)| status == 200))
        .await?;

    // Told to leave, it is not ready any more, answers still for a while, and goes.
    let began = Instant::now();
    webhook.program.signal(libc::SIGTERM);
    until("it is not ready", async || webhook.ask(&[], None, "/ready").is_ok_and(|(status, _)| status == 503)).await?;
    for http in ["--http1.1", "--http2"] {
        holds!(webhook.review(&json!({ "spec": { "containers": [{ "name": "a" }] } }), http)?["allowed"] == true);
    }
    holds!(webhook.program.wait(Duration::from_secs(10))?.success());
    holds!(began.elapsed() > Duration::from_secs(4), "{:?}", began.elapsed());
    Ok(())
}

async fn own_certificate() -> Result {
    let (_api, address) = peers::serve("kubernetes_peer.py", &[]).await?;
    let api = format!("http://{address}");
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("root.crt");
    let arguments = ["--own-certificate", "--api-server", &api];
    let configuration = || -> Result<Value> {
        let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/weir";
        let done = Command::new("curl").args(["-sS", &format!("{api}{path}")]).output()?;
        Ok(serde_json::from_slice(&done.stdout)?)
    };
    let bundle = || -> Result<Vec<u8>> {
        let found = configuration()?;
        let (one, two) = (&found["webhooks"][0]["clientConfig"]["caBundle"], &found["webhooks"][1]["clientConfig"]["caBundle"]);
        same!(one, two);
        Ok(STANDARD.decode(one.as_str().ok_or("not told yet")?)?)
    };
    let mut one = Webhook::start(&arguments, &root).await?;
    one.program.wait_for("the API server is told")?;
    let first = bundle()?;
    std::fs::write(&root, &first)?;
    same!(one.ask(&[], None, "/ready")?.0, 200);
    holds!(one.review(&json!({ "spec": { "containers": [{ "name": "a" }] } }), "--http2")?["patch"].is_string());
    // A second replica takes the same authority, and has nothing to tell.
    let two = Webhook::start(&arguments, &root).await?;
    until("the second is ready", async || two.ask(&[], None, "/ready").is_ok_and(|(status, _)| status == 200)).await?;
    same!(bundle()?, first);
    // What is no authority, or a stranger's, is replaced, and the API server is told.
    drop((one, two));
    let secret = format!("{api}/api/v1/namespaces/weir-system/secrets/weir-webhook-ca");
    certificate(dir.path(), "stranger")?;
    let read = |name: &str| std::fs::read(dir.path().join(name)).map(|text| STANDARD.encode(text));
    openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 10 -subj /CN=old -keyout old.key -out old.crt",
        dir.path(),
    )?;
    for (crt, key, is_kept) in
        [("stranger.key", "stranger.key", false), ("stranger.crt", "old.key", false), ("old.crt", "old.key", true)]
    {
        let bad = json!({ "metadata": { "name": "weir-webhook-ca", "resourceVersion": "7" }, "data": { "tls.crt": read(crt)?, "tls.key": read(key)? } });
        let put = Command::new("curl").args(["-sS", "-f", "-X", "PUT", "-d", &bad.to_string(), &secret]).output()?;
        holds!(put.status.success(), "{}", String::from_utf8_lossy(&put.stdout));
        let mut again = Webhook::start(&arguments, &root).await?;
        again.program.wait_for("the API server is told")?;
        let told = bundle()?;
        std::fs::write(&root, &told)?;
        until("the new one is shown", async || again.ask(&[], None, "/ready").is_ok_and(|(status, _)| status == 200)).await?;
        let old = std::fs::read(dir.path().join("old.crt"))?;
        same!(told.windows(old.len()).any(|part| part == old), is_kept, "{crt}");
    }
    // Whoever may not read Secrets says so, and goes on trying.
    let nowhere = ["--own-certificate", "--api-server", "http://127.0.0.1:9"];
    let mut lost = Webhook::start(&nowhere, &root).await?;
    lost.program.wait_for("cannot be looked after")?;
    holds!(lost.program.complaints()?.contains("http://127.0.0.1:9"), "{}", lost.program.complaints()?);
    let said = super::weir(&["webhook", "--own-certificate", "--api-server", "http://10.0.0.1"], "")?;
    holds!(!said.ok && said.err.contains("must be https"), "{}", said.err);
    let said = super::weir(&["webhook"], "")?;
    holds!(!said.ok && said.err.contains("--cert"), "{}", said.err);
    Ok(())
}

/// By HTTPS, with the token of a service account and its authority, and found by the variables that every pod has.
async fn as_a_pod() -> Result {
    let dir = tempfile::tempdir()?;
    for name in ["api", "stranger"] {
        openssl(
            &format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name} -addext \
                 subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE -keyout {name}.key -out {name}.crt"
            ),
            dir.path(),
        )?;
    }
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (_api, address) = peers::serve("kubernetes_peer.py", &[&file("api.crt"), &file("api.key"), "a-token"]).await?;
    let account = |name: &str, token: &str, trusted: &str| -> Result<String> {
        let account = dir.path().join(name);
        std::fs::create_dir(&account)?;
        std::fs::write(account.join("token"), format!("{token}\n"))?;
        std::fs::copy(dir.path().join(trusted), account.join("ca.crt"))?;
        Ok(account.display().to_string())
    };
    for (name, token, trusted, said) in [
        ("member", "a-token", "api.crt", "the API server is told"),
        ("guest", "another", "api.crt", "Unauthorized"),
        ("lost", "a-token", "stranger.crt", "no TLS"),
    ] {
        let mut command = Command::new(binary());
        command.args(["webhook", "--json", "--listen", "127.0.0.1:0", "--own-certificate", "--service-account"]);
        command.arg(account(name, token, trusted)?).env("KUBERNETES_SERVICE_HOST", address.ip().to_string());
        command.env("KUBERNETES_SERVICE_PORT", address.port().to_string());
        let mut program = Program::start(command)?;
        program.wait_for(said)?;
        holds!(!program.complaints()?.contains(token), "tokens are nobody's business: {}", program.complaints()?);
    }
    Ok(())
}
