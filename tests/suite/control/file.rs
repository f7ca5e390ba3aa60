//! The configuration file: every way of writing it, broken ones, and ones that say the same in other words.

use std::os::unix::fs::symlink;
use std::path::Path;

use weir_tests::load::Load;
use weir_tests::quick::Quick;
use weir_tests::{Result, Trial, Weir, holds, raw, same, test, until};

use super::{config, mistakes, post, table, until_rejected, updates, version};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        test("control::file::every_way_of_writing_it", every_way_of_writing_it),
        test("control::file::a_config_map_is_swapped", a_config_map_is_swapped),
        test("control::file::asked_to_read_it_again", asked_to_read_it_again),
        test("control::file::broken_files_change_nothing", broken_files_change_nothing),
        test("control::file::files_that_cannot_be_read_change_nothing", files_that_cannot_be_read_change_nothing),
        test("control::file::the_same_file_after_a_failed_reload", the_same_file_after_a_failed_reload),
        test("control::file::other_words_are_no_change", other_words_are_no_change),
        test("control::file::the_access_log_changes_under_load", the_access_log_changes_under_load),
    ]
}

/// Waits until this version serves, and checks that a new generation brought it.
async fn serves(weir: &Weir, number: u64, how: &str) -> Result {
    let wanted = number.to_string();
    until(&format!("version {number} serves ({how})"), async || {
        let response = raw::get(weir.address("out"), "app", "/").await;
        response.is_ok_and(|response| response.header("x-version") == Some(&wanted))
    })
    .await?;
    same!(weir.generation().await?, number, "{how}");
    Ok(())
}

async fn every_way_of_writing_it() -> Result {
    let origin = Quick::text("here").await?;
    let weir = Weir::start(&version(1, origin.address)).await?;
    serves(&weir, 1, "start").await?;

    std::fs::write(&weir.file, version(2, origin.address))?;
    serves(&weir, 2, "written in place").await?;

    weir.write(&version(3, origin.address))?;
    serves(&weir, 3, "renamed over the old one").await?;

    std::fs::remove_file(&weir.file)?;
    std::fs::write(&weir.file, version(4, origin.address))?;
    serves(&weir, 4, "removed and made anew").await?;

    let backup = weir.file.with_extension("yaml~");
    std::fs::rename(&weir.file, &backup)?;
    std::fs::write(&weir.file, version(5, origin.address))?;
    serves(&weir, 5, "moved aside and made anew, as vim does with backups").await?;

    // In pieces: what is half there must not be taken for the whole.
    let text = version(6, origin.address);
    let mut file = std::fs::File::create(&weir.file)?;
    for piece in text.as_bytes().chunks(text.len() / 4) {
        std::io::Write::write_all(&mut file, piece)?;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    drop(file);
    serves(&weir, 6, "written in place, piece by piece").await?;
    Ok(())
}

/// What a kubelet does: the file is a link into `..data`, which is a link to a directory and is swapped by rename.
async fn a_config_map_is_swapped() -> Result {
    let origin = Quick::text("here").await?;
    let weir = Weir::start(&version(1, origin.address)).await?;
    let dir = weir.file.parent().ok_or("a directory")?;
    let volume = |number: u64| -> Result {
        let data = format!("..version_{number}");
        std::fs::create_dir(dir.join(&data))?;
        std::fs::write(dir.join(&data).join("weir.yaml"), version(number, origin.address))?;
        symlink(&data, dir.join("..data_tmp"))?;
        std::fs::rename(dir.join("..data_tmp"), dir.join("..data"))?;
        Ok(())
    };
    volume(2)?;
    symlink(Path::new("..data/weir.yaml"), dir.join("link"))?;
    std::fs::rename(dir.join("link"), &weir.file)?;
    serves(&weir, 2, "the file became a link").await?;
    for number in 3..6 {
        volume(number)?;
        std::fs::remove_dir_all(dir.join(format!("..version_{}", number - 1)))?;
        serves(&weir, number, "..data was swapped").await?;
    }
    Ok(())
}

/// SIGHUP and POST /reload read the file even when nothing says that it changed.
async fn asked_to_read_it_again() -> Result {
    let origin = Quick::text("here").await?;
    let weir = Weir::start(&version(1, origin.address)).await?;
    same!(updates(&weir, "unchanged").await?, 0);
    weir.signal(libc::SIGHUP);
    until("SIGHUP reads the file", async || updates(&weir, "unchanged").await.is_ok_and(|count| count == 1)).await?;
    same!(post(&weir, "/reload").await?.status, 202);
    until("POST /reload reads the file", async || updates(&weir, "unchanged").await.is_ok_and(|count| count == 2)).await?;
    weir.write(&version(2, origin.address))?;
    weir.signal(libc::SIGHUP);
    serves(&weir, 2, "SIGHUP").await?;
    weir.write(&version(3, origin.address))?;
    post(&weir, "/reload").await?;
    serves(&weir, 3, "POST /reload").await
}

async fn broken_files_change_nothing() -> Result {
    let origin = Quick::text("here").await?;
    let good = version(1, origin.address);
    let weir = Weir::start(&good).await?;
    let lines = good.lines().count();
    let broken = [
        // The place is where the mistake is, not where the parser gave up.
        (good.replace("clusters: {", "clusters: {{ oops: ["), "weir.yaml:", "YAML"),
        (good.replace("cluster: only", "cluster: elsewhere"), "weir.yaml:4:", "elsewhere"),
        (format!("{good}nonsense: true\n"), &format!("weir.yaml:{}:1: ", lines + 1), "nonsense"),
        (good.replace("127.0.0.1:0, direction", "127.0.0.1:99999, direction"), "weir.yaml:3:", "127.0.0.1:99999"),
        (String::from("admin: {}\n"), "weir.yaml:1:", "listeners"),
    ];
    for (place, (text, position, word)) in broken.iter().enumerate() {
        weir.write(text)?;
        let rejected = place as u64 + 1;
        until("it is rejected", async || updates(&weir, "rejected").await.is_ok_and(|count| count == rejected)).await?;
        let said = mistakes(&weir).await?;
        holds!(said.contains(position), "{said} does not say {position}");
        holds!(word == &"YAML" || said.contains(word), "{said} does not say {word}");
        same!(weir.metric("weir_config_rejected", "").await?, 1.0);
        same!(config(&weir).await?["newest"]["rejected"], true);
        serves(&weir, 1, "a broken file changes nothing").await?;
    }
    let all = good.replace("cluster: only", "cluster: elsewhere").replace("127.0.0.1:0, direction", "127.0.0.1:99999, direction");
    weir.write(&all)?;
    until("every mistake is listed", async || {
        mistakes(&weir).await.is_ok_and(|said| said.contains("elsewhere") && said.contains("99999"))
    })
    .await?;
    weir.write(&good)?;
    until_rejected(&weir, false).await?;
    same!(mistakes(&weir).await?, "");
    same!(config(&weir).await?["newest"]["rejected"], false);
    serves(&weir, 1, "the good file is back, and is what served all the time").await?;
    weir.reload(&version(2, origin.address)).await?;
    serves(&weir, 2, "and can be changed").await
}

async fn files_that_cannot_be_read_change_nothing() -> Result {
    let origin = Quick::text("here").await?;
    let good = version(1, origin.address);
    let weir = Weir::start(&good).await?;

    std::fs::remove_file(&weir.file)?;
    until_rejected(&weir, true).await?;
    let said = mistakes(&weir).await?;
    holds!(said.contains("weir.yaml") && said.contains("No such file"), "{said}");
    serves(&weir, 1, "the file is gone").await?;
    weir.write(&good)?;
    until_rejected(&weir, false).await?;

    std::fs::write(&weir.file, "")?;
    until_rejected(&weir, true).await?;
    holds!(mistakes(&weir).await?.contains("weir.yaml"), "{}", mistakes(&weir).await?);
    serves(&weir, 1, "the file is empty").await?;
    weir.write(&good)?;
    until_rejected(&weir, false).await?;

    std::fs::write(&weir.file, b"listeners: \xff\xfe")?;
    until_rejected(&weir, true).await?;
    holds!(mistakes(&weir).await?.contains("UTF-8"), "{}", mistakes(&weir).await?);
    weir.write(&good)?;
    until_rejected(&weir, false).await?;

    std::fs::remove_file(&weir.file)?;
    std::fs::create_dir(&weir.file)?;
    until("a directory is no file", async || mistakes(&weir).await.is_ok_and(|said| said.contains("directory"))).await?;
    serves(&weir, 1, "the file is a directory").await?;
    std::fs::remove_dir(&weir.file)?;
    weir.write(&good)?;
    until_rejected(&weir, false).await?;
    serves(&weir, 1, "and is good again").await
}

/// A reload that found no file is forgiven when the file is back, though its text is the one that was read last.
async fn the_same_file_after_a_failed_reload() -> Result {
    let origin = Quick::text("here").await?;
    let good = version(1, origin.address);
    let weir = Weir::start(&good).await?;
    let aside = weir.file.with_extension("aside");
    std::fs::rename(&weir.file, &aside)?;
    post(&weir, "/reload").await?;
    until_rejected(&weir, true).await?;
    std::fs::rename(&aside, &weir.file)?;
    until_rejected(&weir, false).await?;
    serves(&weir, 1, "the file is back").await
}

async fn other_words_are_no_change() -> Result {
    let origin = Quick::text("here").await?;
    let text = |clusters: &str| table("", "backends: [{ cluster: one, weight: 3 }, { weight: 1, cluster: two }]", clusters);
    let address = origin.address;
    let first = text(&format!("one: {{ endpoints: ['{address}'] }}, two: {{ endpoints: ['{address}'] }}"));
    let weir = Weir::start(&first).await?;
    let others = [
        format!("# a comment\n{first}\n# another\n"),
        first.replace(": ", ":   ").replace("x:   ", "x: "),
        text(&format!("two: {{ endpoints: ['{address}'] }}, one: {{ endpoints: [\"{address}\"] }}")),
        first.replace("{ cluster: one, weight: 3 }", "{ weight: 3, cluster: one }"),
        first.lines().rev().fold(String::new(), |all, line| all + line + "\n"),
        // A default, written out.
        format!("shutdown: {{ deadline: 25s }}\n{first}"),
    ];
    for (place, other) in others.iter().enumerate() {
        weir.write(other)?;
        let unchanged = place as u64 + 1;
        until("it is no change", async || updates(&weir, "unchanged").await.is_ok_and(|count| count == unchanged)).await?;
        same!(weir.generation().await?, 1, "{other}");
    }
    same!((updates(&weir, "published").await?, updates(&weir, "rejected").await?), (1, 0));
    same!(raw::get(weir.address("out"), "app", "/").await?.text(), "here");
    Ok(())
}

/// Where requests are logged and how is no reason to close a connection.
async fn the_access_log_changes_under_load() -> Result {
    let (origin, dir) = (Quick::text("here").await?, tempfile::tempdir()?);
    let text = |log: &str| table(log, "backends: [{ cluster: only }]", &format!("only: {{ endpoints: ['{}'] }}", origin.address));
    let path = |name: &str| dir.path().join(name);
    let weir = Weir::start(&text("")).await?;
    let load = Load::new(weir.address("out"), 4).start(|_, _| Ok(()));
    for round in 0..3 {
        for (name, format) in [("json", ""), ("plain", ", format: '%REQ(:METHOD)% %RESPONSE_CODE%'")] {
            let file = path(&format!("{name}-{round}"));
            weir.reload(&text(&format!("access_log: {{ path: '{}'{format} }}", file.display()))).await?;
            until("requests are logged", async || std::fs::metadata(&file).is_ok_and(|file| file.len() > 0)).await?;
        }
    }
    weir.reload(&text("")).await?;
    let tally = load.stop().await;
    tally.faultless()?;
    same!(tally.opened, 4, "no connection was closed");
    let plain = std::fs::read_to_string(path("plain-0"))?;
    holds!(plain.lines().all(|line| line == "GET 200"), "{:?}", plain.lines().find(|line| *line != "GET 200"));
    let json = std::fs::read_to_string(path("json-0"))?;
    holds!(json.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "every line is whole");
    Ok(())
}
