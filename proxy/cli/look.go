package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hubcap/proxy/admin/api"
)

// looking returns the commands that change nothing.
func (p *program) looking() []*cobra.Command {
	all := []*cobra.Command{p.status(), p.fills(), p.upstreams(), p.clients(), p.log(), p.capacity()}
	for _, c := range all {
		p.withBox(c)
		p.withJSON(c)
	}
	return all
}

// withBox gives a command the flag --box.
func (p *program) withBox(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.at, "box", "", "address of the admin port of the hubcap to ask, a `URL`; HUBCAP_URL, or this machine's, when empty")
}

// withJSON gives a command the flag --json.
func (p *program) withJSON(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&p.asJSON, "json", false, "print JSON: one document, or an object a line where the output goes on")
}

// show prints what a route answers, by print or as JSON, and returns it.
func show[T any](ctx context.Context, p *program, path string, query url.Values, print func(w io.Writer, answer T) error) (answer T, err error) {
	b, err := p.find()
	if err != nil {
		return answer, err
	}
	text, err := b.document(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return answer, err
	}
	if err := b.decode(text, &answer); err != nil {
		return answer, err
	}
	if p.asJSON {
		return answer, writeJSON(p.Stdout, text)
	}
	return answer, print(p.Stdout, answer)
}

// view returns a command without arguments that prints what a route answers.
func view[T any](p *program, name, does string, print func(w io.Writer, answer T) error) *cobra.Command {
	return &cobra.Command{Use: name, Short: does, Args: takes(0, 0), RunE: func(cmd *cobra.Command, _ []string) error {
		_, err := show(cmd.Context(), p, name, nil, print)
		return err
	}}
}

func (p *program) status() *cobra.Command {
	return view(p, "status", "Show what is wrong, what was saved, which limits are near", func(w io.Writer, s api.Status) error {
		state := strings.ToUpper(s.State)
		if s.Offline {
			state += ", offline"
		}
		_, _ = fmt.Fprintf(w, "%s  hubcap %s  up %s  %s\n", plain(s.Box), plain(s.Version), span(p.Now().Sub(s.Since)), plain(state))
		for _, one := range s.Problems {
			_, _ = fmt.Fprintf(w, "! since %s: %s\n  %s\n  do: %s\n", p.clock(one.Since), plain(one.What), plain(one.Impact), plain(one.Do))
		}
		t := newTable(w)
		t.row("saved today", fmt.Sprintf("%s (%s)", sizeOf(s.Today.BytesSaved, s.Today.BytesOut), percent(ratio(s.Today.BytesSaved, s.Today.BytesOut))))
		t.row("from the cache", fmt.Sprintf("%s of %s today; %d joined a download, %d stale", percent(s.Today.HitRatio), count(s.Today.Requests, "request"), s.Today.Joined, s.Today.Stale))
		for _, l := range s.Limits {
			if l.Remaining >= 0 {
				t.row(l.Upstream, limit(l))
			}
		}
		t.row("around the box", around(s.Clients.LeftDay))
		t.row("disk", fmt.Sprintf("%s, %s; %s free on the file system", sizeOf(s.Disk.Used, s.Disk.Budget), count(s.Disk.Objects, "object"), size(s.Disk.Free)))
		t.row("now", fmt.Sprintf("%s, %d waiting; %s in the last hour, %d in a day", count(s.Fills.Running, "download"), s.Fills.Waiting, count(s.Clients.Hour, "client"), s.Clients.Day))
		return t.end()
	})
}

func ratio(part, whole int64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

// limit describes a pull limit: 18 of 100 pulls left, for 40 min.
func limit(l api.Limit) string {
	text := fmt.Sprintf("%d of %d pulls left (%s)", l.Remaining, l.Limit, l.Identity)
	if l.Limit < 0 {
		text = fmt.Sprintf("%s left (%s)", count(l.Remaining, "pull"), l.Identity)
	}
	if l.LastsS != nil {
		text += ", at this pace for " + seconds(*l.LastsS)
	}
	if l.ForeignPulls > 0 {
		text += fmt.Sprintf("; at least %d were not by this box", l.ForeignPulls)
	}
	return text
}

// around describes which clients have gone to registries themselves.
func around(left map[string]int) string {
	var families []string
	for _, family := range slices.Sorted(maps.Keys(left)) {
		families = append(families, fmt.Sprintf("%s: %s", family, count(left[family], "client")))
	}
	if len(families) == 0 {
		return "no client in a day"
	}
	return strings.Join(families, ", ") + " in a day"
}

func (p *program) fills() *cobra.Command {
	return view(p, "fills", "List the downloads that run now", func(w io.Writer, a api.Fills) error {
		if len(a.Fills) == 0 {
			_, err := fmt.Fprintln(w, "No download runs.")
			return err
		}
		t := newTable(w, "DIGEST", "FROM", "STATE", "DONE", "RATE", "LEFT", "READERS")
		for _, f := range a.Fills {
			done, left := size(f.Have), "-"
			if f.Size >= 0 {
				done = sizeOf(f.Have, f.Size)
			}
			if f.LeftS != nil {
				left = seconds(*f.LeftS)
			}
			t.row(short(f.Digest), strings.Trim(f.Upstream+"/"+f.Repository, "/"), f.State, done, size(f.Rate)+"/s", left, fmt.Sprint(f.Readers))
		}
		return t.end()
	})
}

func (p *program) upstreams() *cobra.Command {
	return view(p, "upstreams", "List the registries that are asked: limits, credentials, circuits", func(w io.Writer, a api.Upstreams) error {
		if len(a.Upstreams) == 0 {
			_, err := fmt.Fprintln(w, "No registry has been asked yet.")
			return err
		}
		t := newTable(w, "REGISTRY", "AS", "PULLS", "CREDENTIALS", "FAILS")
		for _, u := range a.Upstreams {
			fails := failing(u, p.clock)
			for _, i := range u.Identities {
				pulls := "-"
				if i.Limit != nil && i.Limit.Remaining >= 0 {
					pulls = fmt.Sprintf("%d of %d left", i.Limit.Remaining, i.Limit.Limit)
				}
				t.row(u.Host, i.Identity, pulls, credentials(i.Credentials), fails)
			}
		}
		return t.end()
	})
}

// credentials describes how the box's credentials do.
func credentials(c *api.Credentials) string {
	switch {
	case c == nil:
		return "-"
	case c.Refused:
		return "refused"
	case c.Failure != "":
		return "not available: " + c.Failure
	case !c.Usable:
		return "not used"
	default:
		return "in use"
	}
}

// failing describes which hosts of an upstream are not asked at present, and why.
func failing(u api.Upstream, clock func(time.Time) string) string {
	if u.Offline {
		return "offline: not asked"
	}
	var all []string
	for _, h := range u.Hosts {
		if h.LimitedUntil != nil {
			all = append(all, fmt.Sprintf("%s limits pulls until %s", h.Host, clock(*h.LimitedUntil)))
		}
		if h.Circuit != "closed" && h.Since != nil {
			all = append(all, fmt.Sprintf("%s since %s: %s", h.Host, clock(*h.Since), h.Failure))
		}
	}
	if len(all) == 0 {
		return "-"
	}
	return strings.Join(all, "; ")
}

func (p *program) capacity() *cobra.Command {
	return view(p, "capacity", "Estimate what a smaller or larger cache would answer", func(w io.Writer, c api.Capacity) error {
		if !c.Known {
			_, err := fmt.Fprintln(w, "Not known yet: more pulls have to be seen first.")
			return err
		}
		t := newTable(w, "CACHE", "REQUESTS", "BYTES")
		for _, s := range c.Scales {
			name := size(s.Size)
			if s.Scale == 1 {
				name += " (now)"
			}
			t.row(name, percent(s.Requests), percent(s.Bytes))
		}
		return t.end()
	})
}
