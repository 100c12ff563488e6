//! The page of `kvmd-why --html`, in a real browser: what others wrote stays text, everything can be
//! reached with the keyboard, and ten thousand ends are no burden.

mod browser;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use browser::Browser;
use serde_json::{Value, json};
use testbed::{Need, can_run, figure};

/// Has `kvmd-why` make a page of these records.
fn page_of(directory: &Path, records: &[Value]) -> PathBuf {
    let file = directory.join("records");
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    fs::write(&file, lines.join("\n") + "\n").unwrap();
    let page = directory.join("page.html");
    let status = Command::new(env!("CARGO_BIN_EXE_kvmd-why"))
        .arg(format!("--file={}", file.display()))
        .arg(format!("--html={}", page.display()))
        .status()
        .unwrap();
    assert!(status.success());
    page
}

/// A browser that shows the page of these records.
fn shown(records: &[Value]) -> Browser {
    let directory = tempfile::tempdir().unwrap();
    let page = page_of(directory.path(), records);
    let mut browser = Browser::start(1280, 900);
    browser.open(&page);
    browser
}

/// The number of this kind of element.
fn count(browser: &mut Browser, selector: &str) -> u64 {
    browser.evaluate(&format!("document.querySelectorAll({selector:?}).length")).as_u64().unwrap()
}

fn text(browser: &mut Browser, selector: &str) -> String {
    let text = browser.evaluate(&format!("document.querySelector({selector:?}).textContent"));
    text.as_str().unwrap().to_string()
}

/// An end at this minute of a day.
fn end(minute: usize, instance: &str, node: &str, cause: &str, initiator: &str) -> Value {
    json!({
        "version": 1, "instance": instance, "node": node, "pid": 4242, "cause": cause,
        "initiator": initiator, "summary": format!("ended as {cause}"), "marked": initiator == "user",
        "end": format!("2026-11-28T{:02}:{:02}:00.000000Z", minute / 60 % 24, minute % 60),
        "evidence": [{ "at": -0.5, "source": "qmp", "what": "SHUTDOWN" }],
    })
}

fn few_ends() -> Vec<Value> {
    vec![
        end(10, "web1", "node1", "guest-shutdown", "user"),
        end(20, "web2", "node1", "crashed", "crash"),
        end(30, "web2", "node2", "crashed", "crash"),
        end(40, "mail", "node2", "powerdown", "admin"),
        end(50, "mail", "node2", "unknown", "unknown"),
    ]
}

/// A way to get a script run for each place that text can be put into by mistake: as an element, in an
/// attribute, in a script, in JSON, in a style, in an address, in a template; and what ends each of
/// them. `f()` is what they want to run.
const TRICKS: [&str; 40] = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</SCRIPT ><ScRiPt>alert(1)</sCrIpT >",
    "<!--<script>alert(1)</script>-->",
    "--><script>alert(1)</script>",
    "]]><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</textarea><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</noscript><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<img src='x' onerror='alert(1)'>",
    "<IMG \"\"\"><SCRIPT>alert(1)</SCRIPT>\">",
    "<svg onload=alert(1)>",
    "<svg><script href='data:,alert(1)'/></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<math><mtext><table><mglyph><style><img src onerror=alert(1)>",
    "<body onload=alert(1)>",
    "<input autofocus onfocus=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<video><source onerror=alert(1)>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'>",
    "<iframe src='javascript:alert(1)'>",
    "<object data='data:text/html,<script>alert(1)</script>'>",
    "<embed src='javascript:alert(1)'>",
    "<base href='https://example.com/'>",
    "<meta http-equiv='refresh' content='0;url=javascript:alert(1)'>",
    "<link rel=stylesheet href='https://example.com/x.css'>",
    "<style>@import 'https://example.com/x.css';</style>",
    "<form action='javascript:alert(1)'><button autofocus>x",
    "<a href='javascript:alert(1)' autofocus onfocus=alert(1)>x</a>",
    "\" onmouseover=\"alert(1)\" autofocus onfocus=\"alert(1)",
    "' onmouseover='alert(1)' x='",
    "javascript:alert(1)",
    "\"}],\"ends\":[{\"instance\":\"<img src=x onerror=alert(1)>",
    "\\\"}];alert(1);//",
    "${alert(1)}`;alert(1);`",
    "{{nonce}}{{script}}{{constructor.constructor('alert(1)')()}}",
    "&lt;script&gt;alert(1)&lt;/script&gt;&#x3c;img src=x onerror=alert(1)&#x3e;",
    "__proto__",
];

#[test]
fn nothing_that_others_wrote_becomes_markup() {
    if !can_run(&[Need::Chromium]) {
        return;
    }
    let everywhere = |trick: &str| {
        let sender = json!({ "pid": 1, "name": trick, "uid": 0, "command": trick, "ancestors": [
            { "pid": 2, "name": trick, "command": trick },
        ] });
        json!({
            "instance": trick, "node": trick, "cause": trick, "initiator": trick, "summary": trick,
            "end": trick, "signal": trick, "qemu": trick, "missing": [trick], "sender": sender,
            "core": { "dumped": true, "pattern": trick, "hint": trick },
            "evidence": [{ "at": 0, "source": trick, "what": trick }],
        })
    };
    let tricky: Vec<Value> = TRICKS.iter().map(|trick| everywhere(trick)).collect();
    let mut plain = shown(&TRICKS.map(|_| everywhere("harmless")));
    let mut browser = shown(&tricky);
    for trick in TRICKS {
        // Each is where it belongs, letter by letter, and its story can be read.
        let found = browser.evaluate(&format!(
            "(() => {{
                const row = [...document.querySelectorAll('#rows tr')]
                    .find((row) => row.children[2].textContent === {0});
                if (!row || row.children[1].textContent !== {0}) return 'no row';
                row.click();
                return document.querySelector('#story td:last-child').textContent;
            }})()",
            json!(trick)
        ));
        assert_eq!(found, trick);
        browser.evaluate(&format!(
            "for (const id of ['node', 'instance']) {{
                document.getElementById(id).value = {};
                document.getElementById('filters').dispatchEvent(new Event('input'));
            }}",
            json!(trick)
        ));
        assert!(count(&mut browser, "#rows tr") > 0, "{trick}");
        browser.evaluate("document.getElementById('filters').reset()");
        browser.evaluate("new Promise((done) => setTimeout(done))");
    }
    plain.evaluate("document.querySelector('#rows tr').click()");
    for element in ["script", "img", "svg", "iframe", "style", "base", "meta", "link", "form", "a"]
    {
        let expected = count(&mut plain, element);
        assert_eq!(count(&mut browser, element), expected, "{element}");
    }
    for element in ["object", "embed", "video", "math", "[onerror]", "[onload]", "[onfocus]"] {
        assert_eq!(count(&mut browser, element), 0, "{element}");
    }
    assert_eq!(browser.misdeeds(), [""; 0]);
}

/// The browser itself refuses a script that is not the page's own, even if one gets in.
#[test]
fn the_page_forbids_what_is_not_its_own() {
    if !can_run(&[Need::Chromium]) {
        return;
    }
    let mut browser = shown(&few_ends());
    assert_eq!(browser.misdeeds(), [""; 0]);
    browser.evaluate(
        "document.body.insertAdjacentHTML('beforeend',
            '<img src=\"https://example.com/x\" onerror=\"window.pwned = 1\">')",
    );
    let refused = browser.misdeeds();
    assert!(refused.iter().any(|it| it.contains("Content Security Policy")), "{refused:?}");
    assert_eq!(browser.evaluate("window.pwned === undefined"), true);
}

#[test]
fn an_end_is_found_and_read_without_a_mouse() {
    if !can_run(&[Need::Chromium]) {
        return;
    }
    let mut browser = shown(&few_ends());
    let focus = |browser: &mut Browser, selector: &str| {
        for _ in 0..40 {
            browser.press("Tab");
            let it = format!("document.activeElement.matches({selector:?})");
            if browser.evaluate(&it) == true {
                return;
            }
        }
        panic!("{selector} cannot be reached");
    };
    assert_eq!(text(&mut browser, "#count"), "All 5 ends");
    // Power-offs by users are not what is looked for.
    focus(&mut browser, "#by-user");
    browser.press(" ");
    assert_eq!(text(&mut browser, "#count"), "4 of 5 ends");
    // From end to end in time, the latest first.
    focus(&mut browser, "#picture");
    browser.press("ArrowLeft");
    assert_eq!(text(&mut browser, "#story h2"), "mail on node2");
    browser.press("ArrowLeft");
    browser.press("ArrowLeft");
    assert_eq!(text(&mut browser, "#story h2"), "web2 on node2");
    browser.press("ArrowRight");
    assert_eq!(text(&mut browser, "#story h2"), "mail on node2");
    // In the table as well, whose first end is the latest.
    focus(&mut browser, "#rows tr:nth-child(4) button");
    browser.press("Enter");
    assert_eq!(text(&mut browser, "#story h2"), "web2 on node1");
    assert_eq!(text(&mut browser, "#story td:last-child"), "SHUTDOWN");
    focus(&mut browser, "button[type=reset]");
    browser.press("Enter");
    browser.evaluate("new Promise((done) => setTimeout(done))");
    assert_eq!(text(&mut browser, "#count"), "All 5 ends");
    assert_eq!(browser.misdeeds(), [""; 0]);
}

#[test]
fn a_span_of_time_is_chosen_with_the_mouse() {
    if !can_run(&[Need::Chromium]) {
        return;
    }
    let mut browser = shown(&few_ends());
    let picture = browser.evaluate(
        "(() => { const it = document.getElementById('picture').getBoundingClientRect();
            return [it.left, it.top, it.right]; })()",
    );
    let at = |index: usize| picture[index].as_f64().unwrap();
    let (left, top, right) = (at(0) + 195.0, at(1) + 100.0, at(2) - 12.0);
    // The first half: three of the ends are in it.
    browser.drag((left, top), (f64::midpoint(left, right), top));
    assert_eq!(text(&mut browser, "#count"), "3 of 5 ends");
    assert_eq!(browser.misdeeds(), [""; 0]);
}

/// Text has to be told from its ground by people who see less: 4.5 to 1 (WCAG 2.2, 1.4.3), and a mark
/// 3 to 1 (1.4.11).
#[test]
fn it_is_readable_in_the_dark_as_well() {
    if !can_run(&[Need::Chromium]) {
        return;
    }
    let mut browser = shown(&few_ends());
    let mut papers = Vec::new();
    for is_dark in [false, true] {
        browser.set_dark(is_dark);
        let mut luminance = |name: &str| {
            let colour = browser.evaluate(&format!(
                "(() => {{ const it = document.createElement('i'); it.style.color = 'var(--{name})';
                    document.body.append(it); const colour = getComputedStyle(it).color; it.remove();
                    return colour.match(/\\d+/g).map(Number); }})()"
            ));
            let part = |index: usize| {
                let part = colour[index].as_f64().unwrap() / 255.0;
                if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * part(0) + 0.7152 * part(1) + 0.0722 * part(2)
        };
        let paper = luminance("paper");
        let chosen = luminance("chosen");
        for (ink, ground, least) in [
            ("ink", paper, 4.5),
            ("ink", chosen, 4.5),
            ("faint", paper, 4.5),
            ("user", paper, 3.0),
            ("admin", paper, 3.0),
            ("crash", paper, 3.0),
            ("unknown", paper, 3.0),
        ] {
            let ink_itself = luminance(ink);
            let contrast = (ink_itself.max(ground) + 0.05) / (ink_itself.min(ground) + 0.05);
            assert!(contrast >= least, "{ink}: {contrast} (dark: {is_dark})");
        }
        papers.push(paper);
    }
    assert!(papers[0] > papers[1], "{papers:?}");
    assert_eq!(browser.misdeeds(), [""; 0]);
}

/// However many there are, what the browser has to lay out is bounded.
#[test]
fn ten_thousand_ends_stay_fluid() {
    if !can_run(&[Need::Chromium]) {
        return;
    }
    let causes = [("crashed", "crash"), ("guest-shutdown", "user"), ("killed", "admin")];
    let ends: Vec<Value> = (0..10_000)
        .map(|number| {
            let (cause, initiator) = causes[number % causes.len()];
            let (instance, node) =
                (format!("vm{}", number % 3000), format!("node{}", number % 400));
            end(number, &instance, &node, cause, initiator)
        })
        .collect();
    let mut browser = shown(&ends);
    assert_eq!(text(&mut browser, "#count"), "All 10,000 ends");
    assert_eq!(count(&mut browser, "#rows tr"), 200);
    browser.evaluate("document.getElementById('more').click()");
    assert_eq!(count(&mut browser, "#rows tr"), 400);
    // Options included.
    assert!(count(&mut browser, "*") < 10_000);
    let milliseconds = browser.evaluate(
        "(async () => {
            const taken = [];
            for (const name of ['vm1', 'vm12', 'vm', '', 'vm7', '']) {
                document.getElementById('instance').value = name;
                const begin = performance.now();
                document.getElementById('filters').dispatchEvent(new Event('input'));
                await new Promise(requestAnimationFrame);
                taken.push(performance.now() - begin);
            }
            return Math.max(...taken);
        })()",
    );
    let milliseconds = milliseconds.as_f64().unwrap();
    figure(
        "a page of 10,000 ends: the slowest of six filters, drawn",
        &format!("{milliseconds:.0} ms"),
    );
    assert_eq!(browser.misdeeds(), [""; 0]);
}

/// What README.md shows: `make picture` puts it there.
#[test]
fn its_picture_is_taken() {
    if !can_run(&[Need::Chromium]) {
        return;
    }
    let causes = [
        ("guest-shutdown", "user"),
        ("powerdown", "admin"),
        ("guest-shutdown", "user"),
        ("crashed", "crash"),
        ("host-signal", "admin"),
        ("guest-reset", "user"),
        ("unknown", "unknown"),
    ];
    let ends: Vec<Value> = (0..160)
        .map(|number| {
            let (cause, initiator) = causes[(number * 5 + number / 3) % causes.len()];
            let (minute, node) =
                (number * 389 % 1440, format!("node{}", (number * 3 + number / 4) % 5 + 1));
            end(minute, &format!("web{}", number * 7 % 23 + 1), &node, cause, initiator)
        })
        // One that somebody should look at.
        .chain((0..14).map(|hour| {
            let mut end = end(hour * 97, "db1", "node2", "out-of-memory", "crash");
            end["summary"] = "was killed by the kernel's OOM killer".into();
            end["evidence"] = json!([
                { "at": -5820.0, "source": "qmp", "what": "connected" },
                { "at": -0.0123, "source": "trace", "what": "chosen by the OOM killer" },
                { "at": -0.0119, "source": "trace", "what": "SIGKILL from the kernel" },
                { "at": 0.0, "source": "pidfd", "what": "gone" },
                { "at": 0.0004, "source": "proc connector", "what": "killed by SIGKILL" },
            ]);
            end
        }))
        .collect();
    let mut browser = shown(&ends);
    browser.evaluate(
        "[...document.querySelectorAll('#rows tr')]
            .find((row) => row.children[2].textContent === 'db1').click()",
    );
    let directory = tempfile::tempdir().unwrap();
    let path =
        std::env::var_os("PICTURE").map_or_else(|| directory.path().join("a.png"), Into::into);
    browser.photograph(&path);
    assert!(fs::read(&path).unwrap().starts_with(b"\x89PNG"));
    assert_eq!(browser.misdeeds(), [""; 0]);
}
