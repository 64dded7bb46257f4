//! The laws, one function each.

use std::sync::Arc;

use super::{AMPLE_MS, Bench, ECHO, Harness, LATE_MS, ROUND_TRIP_MS, SILENT, STRANGER, reply_to, request};
use crate::transport::{Lane, PeerError};

type Law<H> = fn(&mut Bench<H>) -> Result<(), String>;

/// All laws by name, for one kind of network.
pub(super) fn all<H: Harness>() -> [(&'static str, Law<H>); 10] {
    [
        ("a request arrives as it was sent, and its reply as it was answered", arrives_as_sent),
        ("every request is told its own reply, once, in whatever order they are answered", replies_match),
        ("a node that is not connected is unreachable", unreachable),
        ("a node that comes back can be reached again", reachable_again),
        ("requests under way to a node that is cut off are told once", cut_off),
        ("a request that is not answered is told when its time is over, and never again", timed_out),
        ("a request without time is not carried out", no_time),
        ("past its bound a queue refuses at once, and takes requests again when there is room", queue_full),
        ("a lane that is full does not keep the other one waiting", lanes),
        ("who is told may send at once", send_when_told),
    ]
}

fn ensure(holds: bool, detail: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(detail()) }
}

fn arrives_as_sent<H: Harness>(bench: &mut Bench<H>) -> Result<(), String> {
    bench.send(ECHO, Lane::Foreground, 1, AMPLE_MS);
    bench.network.pass_ms(ROUND_TRIP_MS);
    let heard = bench.echo.heard.lock();
    let [one] = heard.as_slice() else { return Err(format!("the peer heard {} requests", heard.len())) };
    let mut sent = request(1, AMPLE_MS);
    ensure((1..=AMPLE_MS).contains(&one.time_left_ms), || format!("{} ms are left of it", one.time_left_ms))?;
    // The way took its part of the time, and may say what the two agreed on; nothing else is changed.
    sent.time_left_ms = one.time_left_ms;
    sent.features = one.features;
    ensure(*one == sent, || format!("{sent:?} arrived as {one:?}"))?;
    let told = bench.told(1)?;
    ensure(told == Some(Ok(reply_to(ECHO, one))), || format!("the reply arrived as {told:?}"))
}

fn replies_match<H: Harness>(bench: &mut Bench<H>) -> Result<(), String> {
    let count = bench.network.waiting_max().min(20) as u64;
    for number in 1..=count {
        bench.send(SILENT, Lane::Foreground, number, AMPLE_MS);
        bench.send(ECHO, Lane::Foreground, count + number, AMPLE_MS);
    }
    bench.network.pass_ms(ROUND_TRIP_MS);
    bench.silent.answer_all();
    bench.network.pass_ms(ROUND_TRIP_MS);
    for number in 1..=2 * count {
        let answered = bench.answered(number)?;
        ensure(answered == number, || format!("request {number} was told the reply to {answered}"))?;
    }
    Ok(())
}

fn unreachable<H: Harness>(bench: &mut Bench<H>) -> Result<(), String> {
    bench.network.disconnect(ECHO);
    for (number, node) in [(1, ECHO), (2, STRANGER)] {
        bench.send(node, Lane::Foreground, number, AMPLE_MS);
        bench.network.pass_ms(u64::from(AMPLE_MS) + LATE_MS);
        let error = bench.failed(number)?;
        ensure(error == PeerError::Unreachable { peer: node }, || format!("{node} is away: {error:?}"))?;
    }
    ensure(bench.echo.heard.lock().is_empty(), || "a node that is cut off was asked".into())
}

fn reachable_again<H: Harness>(bench: &mut Bench<H>) -> Result<(), String> {
    bench.network.disconnect(ECHO);
    bench.send(ECHO, Lane::Foreground, 1, AMPLE_MS);
    bench.network.pass_ms(u64::from(AMPLE_MS) + LATE_MS);
    bench.failed(1)?;
    let echo = bench.echo.clone();
    bench.network.connect(ECHO, echo);
    // A transport may wait a moment before it connects anew.
    bench.network.pass_ms(5 * ROUND_TRIP_MS);
    bench.send(ECHO, Lane::Foreground, 2, AMPLE_MS);
    bench.network.pass_ms(ROUND_TRIP_MS);
    bench.answered(2).map(|_| ())
}

fn cut_off<H: Harness>(bench: &mut Bench<H>) -> Result<(), String> {
    bench.send(SILENT, Lane::Foreground, 1, AMPLE_MS);
    bench.network.pass_ms(ROUND_TRIP_MS);
    bench.send(SILENT, Lane::Background, 2, AMPLE_MS);
    bench.network.disconnect(SILENT);
    bench.network.pass_ms(u64::from(AMPLE_MS) + LATE_MS);
    bench.silent.answer_all();
    bench.network.pass_ms(ROUND_TRIP_MS);
    for number in [1, 2] {
        bench.failed(number)?;
    }
    let error = bench.failed(1)?;
    ensure(!matches!(error, PeerError::Unreachable { .. } | PeerError::QueueFull { .. }), || {
        format!("a request that may have been carried out was told {error:?}")
    })
}

fn timed_out<H: Harness>(bench: &mut Bench<H>) -> Result<(), String> {
    let time_ms = 400;
    bench.send(SILENT, Lane::Foreground, 1, time_ms);
    bench.network.pass_ms(u64::from(time_ms) / 2);
    ensure(bench.told(1)?.is_none(), || "it was told before its time was over".into())?;
    bench.network.pass_ms(u64::from(time_ms) / 2 + LATE_MS);
    let error = bench.failed(1)?;
    ensure(error == PeerError::TimedOut { peer: SILENT }, || format!("its time was over: {error:?}"))?;
    bench.silent.answer_all();
    bench.network.pass_ms(ROUND_TRIP_MS);
    bench.failed(1).map(|_| ())
}

fn no_time<H: Harness>(bench: &mut Bench<H>) -> Result<(), String> {
    bench.send(ECHO, Lane::Foreground, 1, 0);
    bench.network.pass_ms(ROUND_TRIP_MS);
    bench.failed(1)?;
    ensure(bench.echo.heard.lock().is_empty(), || "it was carried out".into())
}

fn queue_full<H: Harness>(bench: &mut Bench<H>) -> Result<(), String> {
    let limit = bench.network.waiting_max();
    let last = limit as u64;
    for number in 1..=last + 3 {
        bench.send(SILENT, Lane::Foreground, number, AMPLE_MS);
    }
    // No time has passed: a refusal comes at once.
    for number in last + 1..=last + 3 {
        let error = bench.failed(number)?;
        let expected = PeerError::QueueFull { peer: SILENT, waiting: limit, limit };
        ensure(error == expected, || format!("the queue was full: {error:?}"))?;
    }
    bench.send(ECHO, Lane::Foreground, last + 4, AMPLE_MS);
    bench.network.pass_ms(ROUND_TRIP_MS);
    bench.answered(last + 4).map_err(|detail| format!("the queue of another peer is another one: {detail}"))?;
    bench.silent.answer_all();
    bench.network.pass_ms(ROUND_TRIP_MS);
    bench.send(SILENT, Lane::Foreground, last + 5, AMPLE_MS);
    bench.network.pass_ms(ROUND_TRIP_MS);
    bench.silent.answer_all();
    bench.network.pass_ms(ROUND_TRIP_MS);
    for number in (1..=last).chain([last + 5]) {
        bench.answered(number)?;
    }
    Ok(())
}

fn lanes<H: Harness>(bench: &mut Bench<H>) -> Result<(), String> {
    let last = bench.network.waiting_max() as u64;
    for number in 1..=last {
        bench.send(SILENT, Lane::Background, number, AMPLE_MS);
    }
    bench.send(SILENT, Lane::Foreground, last + 1, AMPLE_MS);
    ensure(bench.told(last + 1)?.is_none(), || "a full background refused a client's request".into())?;
    bench.network.pass_ms(ROUND_TRIP_MS);
    bench.silent.answer_all();
    bench.network.pass_ms(ROUND_TRIP_MS);
    bench.answered(last + 1).map(|_| ())
}

fn send_when_told<H: Harness>(bench: &mut Bench<H>) -> Result<(), String> {
    let (transport, second, failed) = (bench.transport.clone(), bench.note(2), bench.note(3));
    let again = Arc::clone(&transport);
    let first = Box::new(move |_| again.send(ECHO, Lane::Foreground, request(2, AMPLE_MS), second));
    transport.send(ECHO, Lane::Foreground, request(1, AMPLE_MS), first);
    let again = Arc::clone(&transport);
    let refused = Box::new(move |_| again.send(ECHO, Lane::Foreground, request(3, AMPLE_MS), failed));
    transport.send(STRANGER, Lane::Foreground, request(4, AMPLE_MS), refused);
    bench.network.pass_ms(u64::from(AMPLE_MS) / 2);
    bench.answered(2)?;
    bench.answered(3).map(|_| ())
}
