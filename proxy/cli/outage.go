package cli

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/admin/words"
	"hubcap/proxy/config"
	"hubcap/proxy/images"
	"hubcap/proxy/units"
)

func (p *program) outage() *cobra.Command {
	var within int
	var repair, verified bool
	cmd := p.command("outage", "Show which images could be pulled with the line cut, or fetch what the others lack", 0, 0, func(ctx context.Context, _ []string) error {
		if repair {
			return p.repair(ctx)
		}
		query := url.Values{}
		if within > 0 {
			query.Set("days", strconv.Itoa(within))
		}
		if verified {
			query.Set("verified", "true")
		}
		a, err := show(ctx, p, "outage", query, printOutage)
		if err == nil && a.Ready < a.Images {
			err = told(InPart, "some images would not survive")
		}
		return err
	})
	cmd.Long = `Show which of the images that clients have pulled of late could be pulled in full if all
registries failed from now on, and what the others lack. The exit code is 3 if there are others.
What --verified names is held, and is verified by hubcap verify.

    hubcap outage --repair --dry-run
    hubcap outage --repair`
	cmd.Flags().IntVar(&within, "days", 0, "images that were pulled within so many `days`; HUBCAP_OUTAGE_DAYS when 0")
	cmd.Flags().BoolVar(&verified, "verified", false, "ask of an image that would survive that each of its files was verified of late, too")
	cmd.Flags().BoolVar(&repair, "repair", false, "fetch what is missing")
	p.withDryRun(cmd)
	p.withDetach(cmd)
	return cmd
}

func printOutage(o *output, a api.Outage) {
	if a.Images == 0 {
		o.line("No client has pulled an image within %s.", units.Count(a.Days, "day"))
		return
	}
	o.line("%d of %s pulled within %s could be pulled in full with the line cut.", a.Ready, units.Count(a.Images, "image"), units.Count(a.Days, "day"))
	if len(a.Not) == 0 {
		return
	}
	var rows [][]string
	for _, row := range a.Not {
		name := row.Ref
		for _, one := range row.Platforms {
			if len(one.Gaps) > 0 && row.Outage != images.Refused {
				rows = append(rows, []string{name, cmp.Or(one.Platform, "-"), missing(one.Gaps), whyMissing(o, one.Gaps)})
				name = ""
			}
		}
		if name != "" {
			rows = append(rows, []string{name, "-", "-", cmp.Or(row.Why, string(row.Outage))})
		}
	}
	o.table([]string{"IMAGE", "PLATFORM", "MISSING", "WHY"}, rows)
	if more := a.Images - a.Ready - len(a.Not); more > 0 {
		o.line("and %s more", units.Count(more, "image"))
	}
	o.line("%s", sentence(words.Repair("hubcap outage --repair:", a.Repair)))
}

// missing describes what a platform lacks: manifest, 2 layers, 13 MB.
func missing(gaps []images.Gap) string {
	parts, bytes := make(map[images.Part]int), int64(0)
	for _, g := range gaps {
		parts[g.Part]++
		bytes += max(g.Size, 0)
	}
	var all []string
	for _, part := range []images.Part{images.ManifestPart, images.ConfigPart, images.LayerPart} {
		switch n := parts[part]; {
		case n == 1 && part != images.LayerPart:
			all = append(all, string(part))
		case n > 0:
			all = append(all, units.Count(n, string(part)))
		}
	}
	return strings.Join(append(all, units.Bytes(bytes)), ", ")
}

// whyMissing describes why parts of a platform are missing, each reason once.
func whyMissing(o *output, gaps []images.Gap) string {
	var all []string
	for _, g := range gaps {
		if why := o.Why(g); !slices.Contains(all, why) {
			all = append(all, why)
		}
	}
	return strings.Join(all, "; ")
}

// repair has what images lack fetched.
func (p *program) repair(ctx context.Context) error {
	done, ok, err := order[api.Repair]{
		path: "outage/repair",
		body: func(dry bool) any { return api.RepairRequest{DryRun: dry} },
		cost: func(r api.Repair) []string { return words.Repair("This", r) },
	}.carryOut(ctx, p)
	if err != nil || !ok {
		return err
	}
	if done.Job != nil {
		err = p.follow(ctx, *done.Job)
	} else if p.asJSON {
		err = p.printJSON(done)
	}
	if !p.asJSON {
		for _, one := range done.Left {
			_ = p.say("%s cannot be repaired: %s", one.Ref, one.Why) // what the job has said counts
		}
	}
	if err == nil && len(done.Left) > 0 {
		err = told(InPart, "some images cannot be repaired")
	}
	return err
}

func (p *program) offline() *cobra.Command {
	var within config.Duration
	cmd := p.command("offline [on|off]", "Ask no registry, as if the line were cut, or end that; say which without an argument", 0, 1, func(ctx context.Context, args []string) error {
		if len(args) == 0 {
			_, err := show(ctx, p, "offline", nil, printOffline)
			return err
		}
		in := api.OfflineRequest{On: args[0] == "on", ForS: int64(time.Duration(within) / time.Second)}
		switch {
		case !in.On && args[0] != "off":
			return failed(Usage, "usage: hubcap offline [on|off]")
		case !in.On && in.ForS != 0:
			return failed(Usage, "--for is for hubcap offline on")
		}
		now, _, err := ask[api.Offline](ctx, p, http.MethodPut, "offline", nil, in)
		if err != nil {
			return err
		}
		return printAnswer(p, now, printOffline)
	})
	cmd.ValidArgs = []string{"on", "off"}
	cmd.Long = `Ask no registry, as if the line were cut: a drill, or a way to keep a line free. It ends
after the time of --for, also across a restart, or by hubcap offline off.`
	withDuration(cmd, &within, "for", "end it by itself after this time")
	return cmd
}

func printOffline(o *output, s api.Offline) {
	switch {
	case s.Configured:
		o.line("Offline by HUBCAP_OFFLINE: no registry is asked.")
	case s.On && s.Until.IsZero():
		o.line("Offline since %s: no registry is asked until hubcap offline off.", o.Clock(s.Since))
	case s.On:
		o.line("Offline since %s: no registry is asked until %s, or hubcap offline off.", o.Clock(s.Since), o.Clock(s.Until))
	default:
		o.line("Online: registries are asked.")
	}
}
