package outage

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"hubcap/cache/index"
)

// offlineEvery is how often it is looked whether the time offline is over.
const offlineEvery = time.Second

// ErrConfigured says that the box is offline by its configuration, which an operator
// cannot end while it runs.
var ErrConfigured = errors.New("HUBCAP_OFFLINE is set: the box is offline until it is restarted without")

// ErrDuration says that a time offline is not positive.
var ErrDuration = errors.New("the time offline must be longer than nothing")

// Switch keeps the box from asking upstreams.
type Switch interface {
	Set(on bool)
}

// OfflineOptions is what an Offline needs; all are required.
type OfflineOptions struct {
	Switch     Switch
	Index      *index.Index
	Configured bool // by HUBCAP_OFFLINE: always offline
	Now        func() time.Time
	Log        *slog.Logger
}

// OfflineStatus is whether the box asks upstreams.
type OfflineStatus struct {
	On         bool      `json:"on"`
	Configured bool      `json:"configured"`     // by HUBCAP_OFFLINE
	Since      time.Time `json:"since,omitzero"` // by an operator
	Until      time.Time `json:"until,omitzero"` // zero: until it is ended
}

// Offline takes the box offline for a time: a drill with the line as good as cut.
// It ends by itself, also after a restart. Its methods are safe for concurrent use.
type Offline struct {
	o OfflineOptions

	mu  sync.Mutex
	now *index.Offline // nil while the box is online, or offline by configuration alone
}

// NewOffline takes up what an operator has ordered before the start.
func NewOffline(o OfflineOptions) *Offline {
	f := &Offline{o: o}
	known, err := o.Index.Offline()
	if err != nil {
		o.Log.Warn("whether an operator has taken the box offline cannot be read: it asks its registries", "err", err)
	}
	if err == nil {
		f.now = known
	}
	f.end()
	f.apply()
	if f.now != nil {
		o.Log.Warn("offline by an operator: no registry is asked", "since", f.now.Since, "until", f.now.Until)
	}
	return f
}

// On takes the box offline for a time from now on; 0 is until Off. It returns
// once that survives a restart.
func (f *Offline) On(within time.Duration) (OfflineStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.o.Configured:
		return f.status(), ErrConfigured
	case within < 0:
		return f.status(), ErrDuration
	}
	now := f.o.Now().UTC()
	next := &index.Offline{Since: now}
	if f.now != nil {
		next.Since = f.now.Since
	}
	if within > 0 {
		next.Until = now.Add(within)
	}
	f.now = next
	f.apply()
	f.o.Log.Warn("offline by an operator: no registry is asked", "since", next.Since, "until", next.Until)
	return f.status(), f.o.Index.PutOffline(next)
}

// Off has the box ask its upstreams again.
func (f *Offline) Off() (OfflineStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.o.Configured {
		return f.status(), ErrConfigured
	}
	var err error
	if f.now != nil {
		err = f.online("by an operator")
	}
	return f.status(), err
}

// Status returns whether the box is offline.
func (f *Offline) Status() OfflineStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end()
	return f.status()
}

// Run ends the time offline when it is over, until ctx ends.
func (f *Offline) Run(ctx context.Context) {
	tick := time.NewTicker(offlineEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f.Status()
		}
	}
}

// f.mu is held in what follows, except at the start.

// end ends the time offline if it is over.
func (f *Offline) end() {
	if f.now == nil || f.now.Until.IsZero() || f.o.Now().Before(f.now.Until) {
		return
	}
	if err := f.online("its time is over"); err != nil {
		f.o.Log.Warn("the end of the time offline cannot be saved", "err", err)
	}
}

func (f *Offline) online(why string) error {
	since := f.now.Since
	f.now = nil
	f.apply()
	f.o.Log.Info("online again: registries are asked", "why", why, "offline_since", since)
	return f.o.Index.PutOffline(nil)
}

func (f *Offline) apply() { f.o.Switch.Set(f.o.Configured || f.now != nil) }

func (f *Offline) status() OfflineStatus {
	s := OfflineStatus{On: f.o.Configured || f.now != nil, Configured: f.o.Configured}
	if f.now != nil {
		s.Since, s.Until = f.now.Since, f.now.Until
	}
	return s
}
