package server

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"hubcap/proxy/port"
)

// askEvery is how often the mirror port is asked before it has answered for the
// first time.
const askEvery = 100 * time.Millisecond

// supervision tells systemd how hubcap is (sd_notify(3), Type=notify): READY=1
// once the mirror port answers, WATCHDOG=1 for as long as it does. When nothing
// answers for the unit's WatchdogSec, systemd kills the process and starts it
// again.
type supervision struct {
	alive    func(context.Context) error // nil when hubcap answers
	notify   func(state string) error
	watchdog time.Duration // the unit's WatchdogSec; 0 if there is none
	log      *slog.Logger
}

// supervise begins the supervision that systemd has asked for. The caller calls
// stop when the drain begins.
func (s *Server) supervise(mirror *port.Port) (stop func()) {
	notify := func(state string) error { _, err := daemon.SdNotify(false, state); return err }
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn("the watchdog of systemd is not used", "err", err)
	}
	if listens, err := daemon.SdNotify(false, "STATUS=starting"); err != nil {
		s.log.Warn("systemd cannot be notified", "err", err)
		return func() {}
	} else if !listens {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		supervision{
			alive:    func(ctx context.Context) error { return s.alive(ctx, mirror) },
			notify:   notify,
			watchdog: watchdog,
			log:      s.log,
		}.run(ctx)
	}()
	return func() {
		cancel()
		<-ended
		if err := notify(daemon.SdNotifyStopping + "\nSTATUS=pulls under way may end"); err != nil {
			s.log.Warn("systemd cannot be notified", "err", err)
		}
	}
}

// run notifies systemd until ctx ends; without a watchdog, until hubcap is ready.
// A quarter of the watchdog's time passes after an answer, an answer may take as
// long, and after one that did not come hubcap is asked again at once: one late
// answer does no harm.
func (v supervision) run(ctx context.Context) {
	state, pause, within := daemon.SdNotifyReady+"\nSTATUS=serving", askEvery, 5*time.Second
	if v.watchdog > 0 {
		within = v.watchdog / 4
	}
	for failed := false; ; {
		err := v.ask(ctx, within)
		if err == nil {
			if err = v.notify(state); err == nil {
				if v.watchdog == 0 {
					return
				}
				state, pause = daemon.SdNotifyWatchdog, v.watchdog/4
			}
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failed {
			v.log.Warn("systemd is not told that hubcap answers", "err", err)
		}
		failed = err != nil
		wait := pause
		if failed {
			wait = askEvery
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (v supervision) ask(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return v.alive(ctx)
}

// alive asks the mirror port for /livez. While clients wait for a place, the
// question would wait behind them: then hubcap is busy and not dead.
func (s *Server) alive(ctx context.Context, mirror *port.Port) error {
	err := get(ctx, mirror.Scheme(), mirror.Addr().String(), "/livez")
	if err != nil && s.limits.Queued() > 0 {
		return nil
	}
	return err
}
