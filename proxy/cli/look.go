package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/admin/words"
	"hubcap/proxy/units"
)

// looking returns the commands that change nothing.
func (p *program) looking() []*cobra.Command {
	return p.asking(
		view(p, "status", "Show what is wrong, what was saved, which limits are near", printStatus), p.problems(), p.images(), p.image(),
		view(p, "pins", "List what is never evicted to make room", printPins),
		view(p, "fills", "List the downloads that run now", printFills),
		view(p, "upstreams", "List the registries that are asked: limits, credentials, circuits", printUpstreams),
		p.clients(), p.log(),
		view(p, "jobs", "List long work: what runs, and what has ended", printJobs), p.history(),
		view(p, "capacity", "Estimate what a smaller or larger cache would answer", printCapacity),
		view(p, "holdings", "List the digests of all that is stored: what an export for this box may leave out", printHoldings), p.outage(),
	)
}

// asking gives commands that ask a hubcap the flags --box and --json.
func (p *program) asking(all ...*cobra.Command) []*cobra.Command {
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

// show prints what a route answers, by write or as JSON, and returns it.
func show[T any](ctx context.Context, p *program, path string, query url.Values, write func(o *output, answer T)) (T, error) {
	answer, document, err := ask[T](ctx, p, http.MethodGet, path, query, nil)
	if err == nil {
		err = reply(p, document, answer, write)
	}
	return answer, err
}

// view returns a command without arguments that prints what a route answers.
func view[T any](p *program, name, does string, write func(o *output, answer T)) *cobra.Command {
	return p.command(name, does, 0, 0, func(ctx context.Context, _ []string) error {
		_, err := show(ctx, p, name, nil, write)
		return err
	})
}

func printStatus(o *output, s api.Status) {
	state := strings.ToUpper(s.State)
	if s.Offline {
		state += ", offline"
	}
	o.line("%-60s  %s", fmt.Sprintf("%s  hubcap %s  up %s", s.Box, s.Version, o.Since(s.Since)), state)
	printProblems(o, s.Problems)
	saved := fmt.Sprintf("%s (%s)", units.BytesOf(s.Today.BytesSaved, s.Today.BytesOut), units.Percent(units.Ratio(s.Today.BytesSaved, s.Today.BytesOut)))
	cached := fmt.Sprintf("%s of %s; %d joined, %d stale", units.Percent(s.Today.HitRatio), units.Count(s.Today.Requests, "request"), s.Today.Joined, s.Today.Stale)
	rows := [][]string{{"saved today", saved, ""}, {"from the cache", cached}}
	for _, l := range s.Limits {
		if l.Remaining >= 0 {
			rows = append(rows, []string{l.Upstream, limit(l), "hubcap upstreams"})
		}
	}
	now := fmt.Sprintf("%s, %d waiting; %s in an hour, %d in a day",
		units.Count(s.Fills.Running, "download"), s.Fills.Waiting, units.Count(s.Clients.Hour, "client"), s.Clients.Day)
	rows = append(rows,
		[]string{"around the box", around(s.Clients.LeftDay), "hubcap clients"}, []string{"outage", survive(s.Outage), "hubcap outage"},
		[]string{"disk", disk(s.Disk), "hubcap capacity"}, []string{"now", now, "hubcap fills"})
	for _, one := range s.Site {
		if one.Kind != "self" {
			rows = append(rows, []string{one.Kind, one.Name + " " + o.SiteBox(one)})
		}
	}
	if s.Tier != nil {
		rows = append(rows, []string{"S3 tier", s.Tier.Words()})
	}
	if len(s.Boxes) > 0 {
		rows = append(rows, []string{"other boxes", otherBoxes(s.Boxes)})
	}
	o.table(nil, rows)
}

// survive describes how many images would survive an outage.
func survive(o api.OutageSummary) string {
	switch {
	case o.Checked.IsZero():
		return "not known yet"
	case o.Images == 0:
		return "no image was pulled within " + units.Count(o.Days, "day")
	}
	return fmt.Sprintf("%d of %s of %s would survive", o.Ready, units.Count(o.Images, "image"), units.Count(o.Days, "day"))
}

func disk(d api.Disk) string {
	used := units.BytesOf(d.Used, d.Budget)
	if d.LastUnusedS == nil {
		return fmt.Sprintf("%s, %s", used, units.Count(d.Objects, "object"))
	}
	return used + "; what went last was unused for " + units.Seconds(*d.LastUnusedS)
}

func otherBoxes(all []api.OtherBox) string {
	names := make([]string, len(all))
	for i, one := range all {
		names[i] = fmt.Sprintf("%s (%s)", one.Name, one.URL)
	}
	return strings.Join(names, ", ")
}

func (p *program) problems() *cobra.Command {
	return p.command("problems", "Show what is wrong and what to do; exit code 3 if anything is", 0, 0, func(ctx context.Context, _ []string) error {
		a, err := show(ctx, p, "problems", nil, func(o *output, a api.Problems) {
			if len(a.Problems) == 0 {
				o.line("Nothing is wrong.")
			}
			printProblems(o, a.Problems)
		})
		if err == nil && len(a.Problems) > 0 {
			return told(InPart, "something is wrong")
		}
		return err
	})
}

func printProblems(o *output, all []api.Problem) {
	for _, one := range all {
		lead := "! since " + o.Clock(one.Since) + "  "
		indent := strings.Repeat(" ", len(lead))
		o.line("%s%s", lead, one.What)
		o.line("%s%s", indent, one.Impact)
		o.line("%sDo: %s", indent, one.Do)
	}
}

// limit describes a pull limit: 18 of 100 left, ~40 min; at least 31 not by this box.
func limit(l api.Limit) string {
	text := words.Limit(&l)
	if l.Identity != "anonymous" {
		text += " (" + l.Identity + ")"
	}
	if l.LastsS != nil {
		text += ", ~" + units.Seconds(*l.LastsS)
	}
	if l.ForeignPulls > 0 {
		text += fmt.Sprintf("; at least %d not by this box", l.ForeignPulls)
	}
	return text
}

// around describes which clients have gone to registries themselves.
func around(left map[string]int) string {
	var families []string
	for _, family := range slices.Sorted(maps.Keys(left)) {
		families = append(families, fmt.Sprintf("%s: %s", family, units.Count(left[family], "client")))
	}
	return cmp.Or(strings.Join(families, ", "), "no client") + " in a day"
}

func printFills(o *output, a api.Fills) {
	heading := []string{"DIGEST", "FROM", "STATE", "DONE", "RATE", "LEFT", "READERS"}
	tabulate(o, "No download runs.", heading, a.Fills, func(f api.Fill) []string {
		done := units.Bytes(f.Present)
		if f.Size >= 0 {
			done = units.BytesOf(f.Present, f.Size)
		}
		return []string{units.Digest(f.Digest), words.From(f), f.State, done, units.Bytes(f.Rate) + "/s", left(f.Left), fmt.Sprint(f.Readers)}
	})
}

// left describes how many seconds are left; nil for an unknown number.
func left(s *int64) string {
	if s == nil {
		return "-"
	}
	return units.Seconds(*s)
}

func printUpstreams(o *output, a api.Upstreams) {
	var rows [][]string
	for _, u := range a.Upstreams {
		fails := cmp.Or(o.Fails(u), "-")
		for _, i := range u.Identities {
			rows = append(rows, []string{u.Host, i.Identity, cmp.Or(words.Limit(i.Limit), "-"), cmp.Or(words.Credentials(i.Credentials), "-"), fails})
		}
	}
	o.list("No registry has been asked yet.", []string{"REGISTRY", "AS", "PULLS", "CREDENTIALS", "FAILS"}, rows)
}

// weekly describes what a cache of another size would fetch.
func weekly(s api.Scale) string {
	switch {
	case s.Week == nil || s.Scale == 1:
		return ""
	case *s.Week < 0:
		return units.Bytes(-*s.Week) + " a week more"
	default:
		return units.Bytes(*s.Week) + " a week less"
	}
}

func printCapacity(o *output, c api.Capacity) {
	heading := []string{"CACHE", "REQUESTS", "BYTES", "FROM THE INTERNET"}
	tabulate(o, "Not known yet: more pulls have to be seen first.", heading, c.Scales, func(s api.Scale) []string {
		name := units.Bytes(s.Size)
		if s.Scale == 1 {
			name += " (now)"
		}
		return []string{name, units.Percent(s.Requests), units.Percent(s.Bytes), weekly(s)}
	})
}
