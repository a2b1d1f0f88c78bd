// Package problems is the one list of what is wrong now. Rules read what the
// rooms return as their Status, at a regular interval; the log, the metrics, the
// API, the doctor and notifications read the list. It knows the rooms' Status,
// and neither requests nor how a problem is mended.
//
// Files: problems.go (the list), kinds.go (what there may be), facts.go (the
// rules), notify.go (notifications).
package problems

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"hubcap/metrics"
)

// Problem is something that is wrong now. Its texts hold no secret.
type Problem struct {
	ID       string    `json:"id"` // kind, or kind/subject: the same for as long as it lasts
	Severity Severity  `json:"severity"`
	Since    time.Time `json:"since"`
	What     string    `json:"what"`
	Impact   string    `json:"impact"`
	Do       string    `json:"do"`
	Runbook  string    `json:"runbook"` // heading in deploy/docs/runbook.md
}

const (
	// endsAfter is how long a problem must not have been seen to have ended:
	// some come and go, such as a circuit that tries a request now and then.
	endsAfter = time.Minute
	// notifyAfter is how long a problem lasts before it is notified of.
	notifyAfter = 10 * time.Minute
)

// Options is what a List needs; every field but Notify is required.
type Options struct {
	Facts   func() Facts  // their Now is the list's clock
	Notify  func(Notice)  // must not block; nil for no notifications
	Every   time.Duration // between two looks of Run
	Metrics *metrics.Metrics
	Log     *slog.Logger
}

// List is the list of what is wrong now. Its methods are safe for concurrent
// use.
type List struct {
	o Options

	mu  sync.Mutex
	now map[string]*lasting // by id
}

// lasting is a problem that lasts.
type lasting struct {
	Problem
	begun    time.Time // when it was first seen
	seen     time.Time // when it was last seen
	notified bool
}

// New returns an empty list and exports it as a metric.
func New(o Options) *List {
	l := &List{o: o, now: make(map[string]*lasting)}
	o.Metrics.Watch(func(set metrics.Set) {
		count := make(map[Severity]int)
		for _, p := range l.All() {
			count[p.Severity]++
		}
		for _, s := range []Severity{Critical, Warning} {
			set(metrics.Problems, float64(count[s]), string(s))
		}
	}, metrics.Problems)
	return l
}

// Run looks for problems until ctx ends.
func (l *List) Run(ctx context.Context) {
	tick := time.NewTicker(l.o.Every)
	defer tick.Stop()
	for {
		l.Look()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Look looks for problems once: it logs and notifies of what has begun and what
// has ended. It is not called concurrently.
func (l *List) Look() {
	facts := l.o.Facts()
	found := facts.Find()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range found {
		l.saw(p, facts.Now)
	}
	for id, p := range l.now {
		switch {
		case facts.Now.Sub(p.seen) >= endsAfter:
			delete(l.now, id)
			l.ended(p)
		case !p.notified && facts.Now.Sub(p.begun) >= notifyAfter:
			p.notified = true
			l.notify(Notice{State: Begun, Problem: p.Problem})
		}
	}
}

// saw takes a problem that there is. l.mu is held, here and below.
func (l *List) saw(p Problem, now time.Time) {
	known, lasts := l.now[p.ID]
	if lasts {
		p.Since = known.Since
		known.Problem, known.seen = p, now
		return
	}
	if p.Since.IsZero() {
		p.Since = now
	}
	l.now[p.ID] = &lasting{Problem: p, begun: now, seen: now}
	level := slog.LevelWarn
	if p.Severity == Critical {
		level = slog.LevelError
	}
	l.o.Log.Log(context.Background(), level, "problem begins", "id", p.ID, "severity", string(p.Severity), "what", p.What, "impact", p.Impact, "do", p.Do, "runbook", p.Runbook)
}

func (l *List) ended(p *lasting) {
	l.o.Log.Info("problem has ended", "id", p.ID, "severity", string(p.Severity), "since", p.Since, "lasted", p.seen.Sub(p.Since).Round(time.Second))
	if p.notified {
		l.notify(Notice{State: Ended, Ended: p.seen, Problem: p.Problem})
	}
}

func (l *List) notify(n Notice) {
	if l.o.Notify != nil {
		l.o.Notify(n)
	}
}

// All returns the problems, the critical ones first and those that have lasted
// longest first.
func (l *List) All() []Problem {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]Problem, 0, len(l.now))
	for _, p := range l.now {
		all = append(all, p.Problem)
	}
	slices.SortFunc(all, func(a, b Problem) int {
		return cmp.Or(strings.Compare(string(a.Severity), string(b.Severity)), a.Since.Compare(b.Since), strings.Compare(a.ID, b.ID))
	})
	return all
}
