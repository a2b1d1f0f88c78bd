// Package outage is what an operator knows and does before the line is cut: the
// report on which images would survive, the repair of those that would not, the
// drill that each pull is, and the switch that takes the box offline. It knows
// neither HTTP nor what an image consists of.
//
// Files: outage.go (the report), repair.go, progress.go (of a repair),
// shadow.go (the drill), offline.go.
package outage

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"hubcap/metrics"
	"hubcap/proxy/images"
	"hubcap/proxy/jobs"
	"hubcap/proxy/reference"
)

const (
	// CheckEvery is how often all images are looked at.
	CheckEvery = 5 * time.Minute
	// recent is how old a report may be when somebody asks for one.
	recent = 10 * time.Second
	// startingEvery is how often it is looked whether all that is held is known.
	startingEvery = time.Second
	// enough is the share of the images that are ready where all is well.
	enough = 0.95
)

// Images is the images that clients pull, as package images knows them.
type Images interface {
	Walk(terms images.Terms) (images.Summary, []images.Image)
	Image(r reference.Reference) (images.Image, bool)
	Wants(r reference.Reference) []string
}

// Options is what a Readiness needs; all are required.
type Options struct {
	Images  Images
	Fetcher Fetcher
	Jobs    *jobs.List
	Days    int         // for how long an image is wanted after a pull
	Nightly bool        // repair each night
	Known   func() bool // reports whether all that is held is known: not at once after a start
	Now     func() time.Time
	After   func(time.Duration) <-chan time.Time
	Log     *slog.Logger
}

// Report is which images would survive an outage.
type Report struct {
	images.Summary
	Not    []images.Image `json:"not" doc:"Those that would not, by name, at most 1,000; the platforms that no client wants are left out"`
	Repair Repair         `json:"repair" doc:"What a repair would fetch"`
}

// Status is the state of all images when they were last looked at.
type Status struct {
	images.Summary
	// Short is since when less than 95 % of the images are ready; zero if that is
	// not so.
	Short time.Time
}

// Readiness knows which images would survive an outage. Its methods are safe for
// concurrent use.
type Readiness struct {
	o Options

	repaired int // day of the last nightly repair, of its year; Run's alone

	mu     sync.Mutex
	status Status
	report Report       // of the last look that somebody asked for, while it is recent
	terms  images.Terms // of report
}

// New returns a Readiness, which knows nothing before Run.
func New(o Options) *Readiness {
	return &Readiness{o: o, status: Status{Summary: images.Summary{Days: o.Days}}}
}

// Run looks at the images again and again until ctx ends, and repairs them nightly
// if that is configured.
func (r *Readiness) Run(ctx context.Context) {
	for !r.o.Known() {
		if !r.wait(ctx, startingEvery) {
			return
		}
	}
	for {
		r.mu.Lock()
		r.look(r.usual())
		r.report = Report{}
		r.mu.Unlock()
		r.nightly()
		if !r.wait(ctx, CheckEvery) {
			return
		}
	}
}

// wait reports false once ctx has ended.
func (r *Readiness) wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-r.o.After(d):
		return true
	}
}

// Status returns what the last look has found.
func (r *Readiness) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// Report returns which images would survive an outage: as of now, or some seconds
// ago. The configured number of days stands in for one that is not positive.
func (r *Readiness) Report(terms images.Terms) Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	if terms.Days <= 0 {
		terms.Days = r.o.Days
	}
	if age := r.o.Now().Sub(r.report.Checked); r.terms != terms || age < 0 || age >= recent {
		summary, not := r.look(terms)
		plan, _ := r.plan(not)
		r.report, r.terms = Report{summary, not, plan}, terms
	}
	return r.report
}

// usual returns the terms of the configuration.
func (r *Readiness) usual() images.Terms { return images.Terms{Days: r.o.Days} }

// look looks at all images, and returns those that would not survive. r.mu is held.
func (r *Readiness) look(terms images.Terms) (images.Summary, []images.Image) {
	summary, not := r.o.Images.Walk(terms)
	if terms == r.usual() {
		short := r.status.Short
		switch {
		case float64(summary.Ready) >= enough*float64(summary.Images):
			short = time.Time{}
		case short.IsZero():
			short = summary.Checked
		}
		r.status = Status{summary, short}
	}
	if not == nil {
		not = []images.Image{}
	}
	return summary, not
}

// Export sets the metrics of what the last look has found; there are none before
// the first.
func (r *Readiness) Export(set metrics.Set) {
	s := r.Status()
	if s.Checked.IsZero() {
		return
	}
	set(metrics.OutageImages, float64(s.Ready), string(images.Ready))
	set(metrics.OutageImages, float64(s.Gaps), string(images.Gaps))
	set(metrics.OutageImages, float64(s.Refused), string(images.Refused))
	set(metrics.OutageMissing, float64(s.Missing))
	set(metrics.OutageChecked, float64(s.Checked.Unix()))
}
