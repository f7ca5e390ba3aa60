//! `weir explain`: why a request goes where it goes; of a file, or of a weir that runs.

use std::path::Path;
use std::process::ExitCode;

use weir_config::explain::{Asked, Question, explain};

use super::{check, fail, print, probe};

/// Of a file.
pub(super) fn file(file: &Path, asked: &Asked, json: bool) -> ExitCode {
    let text = match check::read(file) {
        Ok(text) => text,
        Err(why) => return fail(&why),
    };
    let snapshot = match weir_config::load(&text) {
        Ok((_, snapshot)) => snapshot,
        Err(mistakes) => {
            check::report(file, &mistakes);
            return ExitCode::FAILURE;
        }
    };
    let explained =
        Question::parse(asked).and_then(|question| explain(&snapshot, &text, &question, fastrand::u64(..), &|_| None));
    match explained {
        Ok(explained) if json => print(&format!("{:#}\n", explained.json())),
        Ok(explained) => print(&explained.text(&file.display().to_string())),
        Err(why) => fail(&why),
    }
}

/// Of a weir that runs: its admin server is asked.
pub(super) fn running(admin: &probe::Contact, asked: &Asked, json: bool) -> ExitCode {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for header in &asked.headers {
        query.append_pair("header", header);
    }
    for (name, value) in [
        ("method", &asked.method),
        ("url", &asked.url),
        ("listener", &asked.listener),
        ("to", &asked.to),
        ("from", &asked.from),
        ("address", &asked.address),
    ] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    if json {
        query.append_pair("json", "true");
    }
    match probe::get(admin, &format!("/explain?{}", query.finish())) {
        Ok((200, body)) => print(&body),
        Ok((_, body)) => fail(body.trim()),
        Err(why) => fail(&why),
    }
}
