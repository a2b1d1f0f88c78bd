package outage

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"hubcap/cache/index"
	"hubcap/e2e/testkit"
	"hubcap/proxy/upstream"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// TestOffline: the box goes offline for a time, which ends by itself and survives a
// restart.
func TestOffline(t *testing.T) {
	dir, clock := t.TempDir(), testkit.NewClock(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	var x *index.Index
	var on *upstream.Offline
	start := func(configured bool) *Offline {
		t.Helper()
		var err error
		x, err = index.Open(index.Options{
			Dir: dir, Room: func() (int64, error) { return 1 << 40, nil }, Reserve: 1 << 20, Interval: time.Hour, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		on = new(upstream.Offline)
		return NewOffline(OfflineOptions{Switch: on, Index: x, Configured: configured, Now: clock.Now, Log: slog.New(slog.DiscardHandler)})
	}
	stop := func() {
		t.Helper()
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
	}
	f := start(false)
	want := func(status OfflineStatus) {
		t.Helper()
		if got := f.Status(); got != status || on.On() != status.On {
			t.Errorf("%+v, want %+v; the switch says %v", got, status, on.On())
		}
	}
	want(OfflineStatus{})
	if _, err := f.On(-1); !errors.Is(err, ErrDuration) {
		t.Errorf("%v", err)
	}
	began := clock.Now()
	offline := OfflineStatus{On: true, Since: began, Until: began.Add(30 * time.Minute)}
	if got, err := f.On(30 * time.Minute); got != offline || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	stop()
	clock.Advance(29 * time.Minute)
	f = start(false)
	want(offline)
	clock.Advance(time.Minute)
	want(OfflineStatus{})
	stop()
	f = start(false)
	want(OfflineStatus{})
	if _, err := f.On(time.Minute); err != nil {
		t.Fatal(err)
	}
	stop()
	clock.Advance(time.Minute) // the end comes while the box is down
	f = start(false)
	want(OfflineStatus{})
	began = clock.Now()
	if got, err := f.On(0); err != nil || !got.Until.IsZero() {
		t.Errorf("%+v, %v", got, err)
	}
	clock.Advance(1000 * time.Hour)
	want(OfflineStatus{On: true, Since: began})
	if got, err := f.Off(); err != nil || got != (OfflineStatus{}) {
		t.Errorf("%+v, %v", got, err)
	}
	want(OfflineStatus{})
	stop()
	f = start(true)
	want(OfflineStatus{On: true, Configured: true})
	for _, err := range []error{func() error { _, err := f.Off(); return err }(), func() error { _, err := f.On(0); return err }()} {
		if !errors.Is(err, ErrConfigured) {
			t.Errorf("%v", err)
		}
	}
	stop()
}
