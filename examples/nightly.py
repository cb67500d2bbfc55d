"""What is to happen at night, each in its own time zone, and what is done about missed nights.

taskyard worker examples/nightly.py:yard        does it, night by night, until Ctrl-C
python examples/nightly.py --fire-now           does all of it once, now, and ends

Any number of workers may run: each night puts one message. In another terminal:

taskyard schedules list

    name             task         queue    when                                     next        last
    clean-up         clean_up     default  cron 0 3 * * * (UTC)                     in 15h 48m  -
    close-day        close_day    default  cron 30 2 * * * (Europe/Berlin)          in 14h 18m  -
    report-Berlin    send_report  default  cron 0 6 * * MON-FRI (Europe/Berlin)     in 1d 17h   -
    report-New York  send_report  default  cron 0 6 * * MON-FRI (America/New_York)  in 1d 23h   -

taskyard schedules fire close-day
taskyard schedules pause clean-up
taskyard schedules resume clean-up
"""

import argparse
import os
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from taskyard import Yard, cron, current_context

BERLIN = "Europe/Berlin"
OFFICES = {"Berlin": BERLIN, "New York": "America/New_York"}

yard = Yard(os.environ.get("TASKYARD_BROKER", "sqlite:///taskyard.db"))


def night() -> datetime:
    """The instant that this message is for, which may be long ago: its id says it."""
    _, _, instant = current_context().message_id.rpartition("@")
    return datetime.fromisoformat(instant)


# The night in which clocks are put forward has no 2:30 in Berlin: it is due at 3:00 then. Nights in
# which nobody was there are made up for, each of them, one after the other: hence ordered.
@yard.task(ordered=True)
def close_day() -> date:
    """Close the books of a day. The day comes from the message, so running twice does no harm."""
    day = night().astimezone(ZoneInfo(BERLIN)).date() - timedelta(days=1)
    print(f"the books of {day:%A, %d %B %Y} are closed")
    return day


@yard.task
def send_report(office: str) -> None:
    print(f"the report for {office} is sent")


@yard.task
def clean_up() -> None:
    print("old files are removed")


yard.schedule(close_day, when=cron("30 2 * * *", tz=BERLIN), name="close-day", catch_up="all")

# On working days. Of several that were missed, only the latest is sent.
for office, zone in OFFICES.items():
    when = cron("0 6 * * MON-FRI", tz=zone)
    yard.schedule(send_report, office, when=when, name=f"report-{office}", catch_up="latest")

# Between 3 and 4 o'clock UTC, not on all machines at the same moment. A missed night is left out.
yard.schedule(clean_up, when=cron("0 3 * * *"), name="clean-up", jitter=3600, catch_up="none")


def fire_all() -> None:
    """Do now what is otherwise done at night."""
    yard.run_worker(burst=True)  # a worker stores what is declared, here and in `taskyard worker`
    for name in yard.plans:
        yard.schedules.fire(name)
    yard.run_worker(burst=True, concurrency=1)  # in one thread: what they print does not mix
    for schedule in yard.schedules.list():
        following = f"{schedule.next:%a %d %b %H:%M} UTC" if schedule.next else "paused"
        print(f"{schedule.name:16}  {schedule.when:40}  next: {following}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fire-now", action="store_true", help="do all of it once, now")
    if parser.parse_args().fire_now:
        fire_all()
    else:
        parser.print_help()


if __name__ == "__main__":
    main()
