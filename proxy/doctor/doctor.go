// Package doctor checks what a new box or one in trouble needs: its disk, clock,
// names, registries, ports and clients, each with what to do. It works before the
// first start and beside a running hubcap, whose admin port it asks. It changes
// nothing.
//
// Files: doctor.go (the report), local.go (this machine), registries.go, box.go
// (a running hubcap), environment.go (the service's settings).
package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"time"

	"hubcap/proxy/config"
)

// State is the result of a check.
type State string

// The states.
const (
	OK      State = "ok"
	Warning State = "warning" // hubcap works, or will; something can be better
	Failed  State = "failed"  // hubcap does not work, or something of it
)

// Line is one check with its result.
type Line struct {
	Check string `json:"check"` // what was checked: configuration, hubcap, disk, directory, proxy, authorities, clock, names, registry, credentials, port, addresses, clients or problem
	State State  `json:"state"`
	What  string `json:"what"`
	Do    string `json:"do,omitempty"`
}

// Report is the result of all checks.
type Report struct {
	Box     string `json:"box"`     // the host's name
	Version string `json:"version"` // of the doctor
	Running bool   `json:"running"` // a hubcap with this configuration runs
	State   State  `json:"state"`   // the worst of the lines
	Lines   []Line `json:"checks"`
}

// Options is what Run needs.
type Options struct {
	Environ []string // as of os.Environ
	Version string

	// What tests replace.
	Proxy    func(*http.Request) (*url.URL, error) // http.ProxyFromEnvironment when nil
	Now      func() time.Time                      // time.Now when nil
	Settings string                                // the service's environment file; /etc/hubcap/hubcap.env when empty
}

// within is how long the checks take at most, all together.
const within = 30 * time.Second

// doctor is one run.
type doctor struct {
	o      Options
	config config.Config
	log    *slog.Logger
	box    *box // nil if none runs
	report Report
}

// Run makes all checks.
func Run(ctx context.Context, o Options) Report {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if o.Proxy == nil {
		o.Proxy = http.ProxyFromEnvironment
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Settings == "" {
		o.Settings = "/etc/hubcap/hubcap.env"
	}
	name, _ := os.Hostname() // empty is as good as unknown
	d := &doctor{o: o, log: slog.New(slog.DiscardHandler), report: Report{Box: name, Version: o.Version, State: OK}}
	if d.configuration() {
		d.running(ctx)
		d.ports(ctx) // before registries, which may take all the time
		d.disk()
		d.directory()
		d.proxy(ctx)
		d.authorities()
		d.registries(ctx)
		d.addresses()
		d.clients()
		d.problems()
	}
	return d.report
}

// add adds a line. do is empty where nothing is to be done.
func (d *doctor) add(check string, state State, what, do string) {
	d.report.Lines = append(d.report.Lines, Line{check, state, what, do})
	if state == Failed || state == Warning && d.report.State == OK {
		d.report.State = state
	}
}

// configuration reads the configuration and reports whether it is valid.
func (d *doctor) configuration() bool {
	environ, from, err := settings(d.o.Environ, d.o.Settings)
	if err != nil {
		d.add("configuration", Failed, "the service's settings cannot be read: "+err.Error(), "run hubcap doctor as root")
		return false
	}
	c, err := config.Load(environ)
	d.config = c
	if err != nil {
		d.add("configuration", Failed, err.Error(), "correct the variable: hubcap does not start with it")
		return false
	}
	for _, warning := range c.Warnings {
		d.add("configuration", Warning, warning, "")
	}
	d.add("configuration", OK, "read from "+from, "")
	return true
}

// Print writes the report, as JSON or as text for people. The error says that
// something has failed.
func (r Report) Print(w io.Writer, asJSON bool) error {
	write := r.WriteText
	if asJSON {
		write = r.WriteJSON
	}
	if err := write(w); err != nil {
		return err
	}
	if r.State == Failed {
		return errors.New("something of what the doctor checks has failed")
	}
	return nil
}

// WriteText writes the report for people.
func (r Report) WriteText(w io.Writer) error {
	for _, l := range r.Lines {
		if _, err := fmt.Fprintf(w, "%-8s %-14s %s\n", l.State, l.Check, l.What); err != nil {
			return err
		}
		if l.Do != "" {
			if _, err := fmt.Fprintf(w, "%-8s %-14s do: %s\n", "", "", l.Do); err != nil {
				return err
			}
		}
	}
	return nil
}

// WriteJSON writes the report as one JSON document.
func (r Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}
