package cli

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/admin/words"
	"hubcap/proxy/config"
	"hubcap/proxy/units"
)

func (p *program) history() *cobra.Command {
	cmd := p.command("history [REF]", "Show which digests a tag has had, or the tags that do not follow their registry", 0, 1, func(ctx context.Context, args []string) (err error) {
		if len(args) == 0 {
			_, err = show(ctx, p, "tags", nil, printKept)
		} else {
			_, err = show(ctx, p, "image/history", url.Values{"ref": args}, printHistory)
		}
		return err
	})
	cmd.Long = `Show which digests a tag has had here, the latest first. Without REF: the tags that do
not follow their registry, because they are frozen or wait for their cool-down.`
	return cmd
}

func printKept(o *output, a api.KeptTags) {
	heading := []string{"TAG", "DIGEST", "STATE"}
	tabulate(o, "All tags follow their registry.", heading, a.Tags, func(one api.Tag) []string {
		return []string{one.Ref, units.Digest(one.Digest), o.Tag(one)}
	})
}

func printHistory(o *output, a api.TagHistory) {
	var rows [][]string
	for _, l := range a.Lines {
		note := ""
		switch {
		case l.Current:
			note = "served"
		case l.Registry && a.Tag.State == "cooling":
			note = "cooling, is taken over " + o.Clock(a.Tag.Moved.Until)
		case l.Registry:
			note = "at the registry"
		case !l.Served:
			note = "never served"
		}
		rows = append(rows, []string{o.Clock(l.FirstSeen), units.Digest(l.Digest), o.Ago(l.LastConfirmed), string(l.Via), note})
	}
	o.table([]string{"SINCE", "DIGEST", "CONFIRMED", "VIA", ""}, rows)
	o.line("%s: %s", a.Tag.Ref, o.Tag(a.Tag))
}

// keeping is what pin, freeze and rollback have in common.
type keeping struct {
	note, until string
	span        config.Duration
}

func (k *keeping) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&k.note, "note", "", "a `text` that says why")
	cmd.Flags().StringVar(&k.until, "until", "", "a `time` at which it ends by itself, such as 2026-12-24 or 2026-12-24T18:00:00Z")
	withDuration(cmd, &k.span, "for", "as --until, counted from now")
	cmd.MarkFlagsMutuallyExclusive("until", "for")
}

// end returns when it ends by itself; zero for never.
func (k *keeping) end(p *program) (time.Time, error) {
	if k.span > 0 {
		return p.Now().Add(time.Duration(k.span)), nil
	}
	if k.until == "" {
		return time.Time{}, nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, k.until, time.Local); err == nil {
		return t, nil
	}
	t, err := time.Parse(time.RFC3339, k.until)
	if err != nil {
		return t, failed(Usage, "--until %s: want a date such as 2026-12-24, or a time such as 2026-12-24T18:00:00Z", k.until)
	}
	return t, nil
}

// tagOrders returns the commands that change what a tag means.
func (p *program) tagOrders() []*cobra.Command {
	var to string
	rollback := p.tagOrder("rollback REF", "Freeze a tag to a digest that it had before", true, func(r api.TagRequest, until time.Time, note string) any {
		return api.RollbackRequest{Ref: r.Ref, To: to, Until: until, Note: note, DryRun: r.DryRun}
	})
	rollback.Flags().StringVar(&to, "to", "", "a `digest` of hubcap history, or its beginning; the one that was served before, when empty")
	freeze := func(r api.TagRequest, until time.Time, note string) any {
		return api.FreezeRequest{Ref: r.Ref, Until: until, Note: note, DryRun: r.DryRun}
	}
	plain := func(r api.TagRequest, _ time.Time, _ string) any { return r }
	return []*cobra.Command{
		p.tagOrder("freeze REF[@DIGEST]", "Have a tag mean one digest, the present one or another, until it is thawed", true, freeze), rollback,
		p.tagOrder("thaw REF", "End a freeze: the tag follows its registry again", false, plain),
		p.tagOrder("adopt REF", "End the cool-down of a tag: it moves now", false, plain),
	}
}

// tagOrder returns a command that changes what a tag means. keeps is whether it may end
// by itself, and begin a job.
func (p *program) tagOrder(use, does string, keeps bool, body func(r api.TagRequest, until time.Time, note string) any) *cobra.Command {
	var k keeping
	name, _, _ := strings.Cut(use, " ")
	cmd := p.command(use, does, 1, 1, func(ctx context.Context, args []string) error {
		until, err := k.end(p)
		if err != nil {
			return err
		}
		return p.change(ctx, "image/"+name, func(dry bool) any { return body(api.TagRequest{Ref: args[0], DryRun: dry}, until, k.note) })
	})
	p.withDryRun(cmd)
	if keeps {
		k.flags(cmd)
		p.withDetach(cmd)
	}
	return cmd
}

// change changes what a tag means.
func (p *program) change(ctx context.Context, path string, body func(dry bool) any) error {
	c, ok, err := order[api.TagChange]{path: path, body: body, cost: words.Tag}.carryOut(ctx, p)
	if err != nil || !ok {
		return err
	}
	if c.Job != nil {
		if err := p.follow(ctx, *c.Job); err != nil || p.detach || p.asJSON {
			return err
		}
		now, err := get[api.TagHistory](ctx, p, "image/history", url.Values{"ref": {c.Tag.Ref}})
		if err != nil {
			return err
		}
		c.Tag = now.Tag
	}
	return printAnswer(p, c, func(o *output, c api.TagChange) {
		hint := ""
		if c.Tag.Frozen != nil {
			hint = fmt.Sprintf(" Clients see it from now on; pulls by digest do not change. hubcap thaw %s ends it.", c.Tag.Ref)
		}
		o.line("%s is %s: %s.%s", c.Tag.Ref, units.Digest(c.Tag.Digest), o.Tag(c.Tag), hint)
	})
}
