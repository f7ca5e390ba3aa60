//! Admission reviews (`admission.k8s.io/v1`): what the API server asks before it makes a pod, and the answer. A function of the
//! question alone, so that a dry run is a run, and asking twice gives the same.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Done, Outcome, Settings, inject_pod, name};
use crate::manifest::json::{from_json, to_json};

/// Warnings are shown to whoever applies something; the API server cuts longer ones.
const LONGEST_WARNING: usize = 240;

/// What was answered.
pub struct Answer {
    /// The `AdmissionReview` with the response.
    pub review: Value,
    /// What it was about, and what became of it, for the log.
    pub told: String,
    /// Whether the pod was refused.
    pub refused: bool,
}

/// Why something is no question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoQuestion(String);

impl fmt::Display for NoQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoQuestion {}

const KIND: &str = "AdmissionReview";
const VERSION: &str = "admission.k8s.io/v1";

/// Answers a review: a patch that puts a sidecar in the pod; nothing for what is no pod about to be made; a refusal for a pod
/// whose annotations cannot be understood.
///
/// # Errors
/// It is no `AdmissionReview` of `admission.k8s.io/v1`.
pub fn answer(body: &[u8], settings: &Settings) -> Result<Answer, NoQuestion> {
    let review: Value = serde_json::from_slice(body)
        .map_err(|error| NoQuestion(format!("this is no JSON ({error}); the API server posts an {KIND} here")))?;
    let said = |key: &str| review[key].as_str().unwrap_or("nothing").to_owned();
    if (review["kind"].as_str(), review["apiVersion"].as_str()) != (Some(KIND), Some(VERSION)) {
        return Err(NoQuestion(format!(
            "this is `{}` of `{}`; `{KIND}` of `{VERSION}` is answered here (`admissionReviewVersions: [v1]`)",
            said("kind"),
            said("apiVersion")
        )));
    }
    let request = &review["request"];
    let Some(uid) = request["uid"].as_str() else {
        return Err(NoQuestion(format!("this {KIND} has no `request.uid`, which the answer must repeat")));
    };
    let respond = |response: Value, told: String| {
        let mut response = response;
        response["uid"] = uid.into();
        let refused = response["allowed"] != true;
        Ok(Answer { review: json!({ "apiVersion": VERSION, "kind": KIND, "response": response }), told, refused })
    };
    let is = |key: &str, word: &str| request[key].as_str() == Some(word);
    let is_pod = request["kind"]["kind"] == "Pod" && request["kind"]["group"].as_str().unwrap_or_default().is_empty();
    if !is_pod || !is("operation", "CREATE") || !request["subResource"].as_str().unwrap_or_default().is_empty() {
        return respond(json!({ "allowed": true }), "not a pod about to be made: let through".to_owned());
    }
    let object = &request["object"];
    let mut pod = from_json(object);
    let namespace = request["namespace"].as_str().unwrap_or("?");
    match inject_pod(&mut pod, settings) {
        Ok(Done { what, outcome, warnings }) => {
            let (fate, patch) = match outcome {
                Outcome::Injected => ("injected".to_owned(), Some(json_patch::diff(object, &to_json(&pod)))),
                Outcome::LeftAlone(why) => (format!("left alone: {why}"), None),
                Outcome::Removed => ("removed".to_owned(), None),
            };
            let mut response = json!({ "allowed": true, "auditAnnotations": { "outcome": &fate } });
            if let Some(patch) = patch.filter(|patch| !patch.0.is_empty()) {
                let text = serde_json::to_vec(&patch).map_err(|error| NoQuestion(error.to_string()))?;
                response["patchType"] = "JSONPatch".into();
                response["patch"] = STANDARD.encode(text).into();
            }
            if !warnings.is_empty() {
                let short = |warning: &String| warning.chars().take(LONGEST_WARNING).collect::<String>();
                response["warnings"] = warnings.iter().map(short).collect();
            }
            respond(response, format!("{namespace}/{what}: {fate}"))
        }
        Err(mistakes) => {
            let message = format!("weir cannot give this pod its sidecar: {}", mistakes.join("; "));
            let response = json!({ "allowed": false, "status": { "code": 422, "reason": "Invalid", "message": message } });
            respond(response, format!("{namespace}/pod/{}: refused: {}", name(&pod), mistakes.join("; ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(pod: Value) -> Value {
        json!({ "apiVersion": VERSION, "kind": KIND, "request": {
            "uid": "705ab4f5", "kind": { "group": "", "version": "v1", "kind": "Pod" }, "namespace": "shop",
            "operation": "CREATE", "object": pod, "dryRun": true
        } })
    }

    fn ask(review: &Value) -> Value {
        answer(review.to_string().as_bytes(), &Settings::default()).unwrap().review["response"].clone()
    }

    #[test]
    fn the_patch_makes_of_the_pod_what_inject_makes() {
        let pod = json!({ "metadata": { "generateName": "cart-" }, "spec": { "priority": 0, "x": 0.25, "containers": [
            { "name": "cart", "image": "shop/cart:1", "readinessProbe": { "httpGet": { "path": "/", "port": 8080 } } }
        ] } });
        let response = ask(&review(pod.clone()));
        assert_eq!((&response["allowed"], &response["uid"]), (&json!(true), &json!("705ab4f5")));
        let patch = STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
        let mut patched = pod;
        json_patch::patch(&mut patched, &patch).unwrap();
        assert_eq!(patched["spec"]["initContainers"][1]["name"], "weir");
        assert_eq!((&patched["spec"]["priority"], &patched["spec"]["x"]), (&json!(0), &json!(0.25)));
        // Another webhook may have it asked again.
        let again = ask(&review(patched));
        assert_eq!((&again["allowed"], again.get("patch")), (&json!(true), None));
    }

    #[test]
    fn what_is_no_pod_to_make_is_let_through() {
        let pod = json!({ "spec": { "containers": [{ "name": "a" }] } });
        for (key, value) in
            [("operation", json!("DELETE")), ("subResource", json!("ephemeralcontainers")), ("kind", json!({ "kind": "Node" }))]
        {
            let mut other = review(pod.clone());
            other["request"][key] = value;
            let response = ask(&other);
            assert_eq!((&response["allowed"], response.get("patch")), (&json!(true), None), "{key}");
        }
        let host = ask(&review(json!({ "spec": { "hostNetwork": true, "containers": [{ "name": "a" }] } })));
        assert!(host.get("patch").is_none() && host["auditAnnotations"]["outcome"].as_str().unwrap().contains("hostNetwork"));
    }

    #[test]
    fn nonsense_is_told_apart() {
        let wrong = ask(&review(
            json!({ "metadata": { "annotations": { "weir.proxy/native": "x" } }, "spec": { "containers": [{ "name": "a" }] } }),
        ));
        assert_eq!((&wrong["allowed"], &wrong["status"]["code"]), (&json!(false), &json!(422)));
        assert!(wrong["status"]["message"].as_str().unwrap().contains("weir.proxy/native"));
        for pod in [
            json!(null),
            json!([]),
            json!({ "spec": 7 }),
            json!({ "spec": { "containers": 1 } }),
            json!({ "metadata": 1, "spec": { "containers": [1] } }),
        ] {
            assert_eq!(ask(&review(pod.clone()))["allowed"], json!(false), "{pod}");
        }
        for (text, word) in [
            ("", "no JSON"),
            ("{}", "`nothing` of `nothing`"),
            (r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1beta1"}"#, "v1beta1"),
            (r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}"#, "request.uid"),
        ] {
            let Err(why) = answer(text.as_bytes(), &Settings::default()) else { panic!("{text}") };
            assert!(why.to_string().contains(word), "{why}");
        }
    }
}
