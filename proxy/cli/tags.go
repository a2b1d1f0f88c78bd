package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/config"
)

func (p *program) history() *cobra.Command {
	return &cobra.Command{
		Use:   "history [REF]",
		Short: "Show which digests a tag has had, or the tags that do not follow their registry",
		Long: `Show which digests a tag has had here, the latest first. Without REF: the tags that do
not follow their registry, because they are frozen or wait for their cool-down.`,
		Args:              takes(0, 1),
		ValidArgsFunction: p.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				_, err := show(cmd.Context(), p, "tags", nil, p.printKept)
				return err
			}
			_, err := show(cmd.Context(), p, "image/history", url.Values{"ref": args}, p.printHistory)
			return err
		},
	}
}

func (p *program) printKept(w io.Writer, a api.KeptTags) error {
	if len(a.Tags) == 0 {
		_, err := fmt.Fprintln(w, "All tags follow their registry.")
		return err
	}
	t := newTable(w, "TAG", "DIGEST", "STATE")
	for _, one := range a.Tags {
		t.row(one.Ref, short(one.Digest.String()), p.tagState(one))
	}
	return t.end()
}

func (p *program) printHistory(w io.Writer, a api.TagHistory) error {
	t := newTable(w, "SINCE", "DIGEST", "CONFIRMED", "VIA", "")
	for _, l := range a.Lines {
		note := ""
		switch {
		case l.Current:
			note = "served"
		case l.Registry && a.Tag.State == "cooling":
			note = "cooling, is taken over " + p.clock(a.Tag.Moved.Until)
		case l.Registry:
			note = "at the registry"
		case !l.Served:
			note = "never served"
		}
		t.row(p.clock(l.FirstSeen), short(l.Digest.String()), p.ago(l.LastConfirmed), string(l.Via), note)
	}
	if err := t.end(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%s: %s\n", plain(a.Tag.Ref), plain(p.tagState(a.Tag)))
	return err
}

// tagState describes whether and why a tag follows its registry or not.
func (p *program) tagState(t api.Tag) string {
	text := string(t.State)
	if f := t.Frozen; f != nil {
		text += " since " + p.clock(f.Since)
		if !f.Until.IsZero() {
			text += " until " + p.clock(f.Until)
		}
		if f.By != "" {
			text += " by " + f.By
		}
		if f.Note != "" {
			text += ": " + f.Note
		}
		if !f.Deleted.IsZero() {
			text += "; deleted at the registry " + p.ago(f.Deleted)
		}
	}
	if m := t.Moved; m != nil {
		text += fmt.Sprintf("; %s at the registry since %s", short(m.Digest.String()), p.clock(m.Since))
		if !m.Until.IsZero() {
			text += ", is taken over " + p.clock(m.Until)
		}
	}
	return text
}

// keeping is what freeze and rollback have in common.
type keeping struct {
	note string
	span config.Duration
}

func (k *keeping) flags(p *program, cmd *cobra.Command) {
	cmd.Flags().StringVar(&k.note, "note", "", "a `text` that says why")
	withDuration(cmd, &k.span, "for", "until then, instead of until it is thawed")
	p.withJob(cmd)
}

// until returns the end; zero for none.
func (k *keeping) until(p *program) time.Time {
	if k.span == 0 {
		return time.Time{}
	}
	return p.Now().Add(time.Duration(k.span))
}

func (p *program) freeze() *cobra.Command {
	var k keeping
	cmd := &cobra.Command{
		Use:   "freeze REF[@DIGEST]",
		Short: "Have a tag mean one digest, the present one or another, until it is thawed",
		Args:  takes(1, 1), ValidArgsFunction: p.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.change(cmd.Context(), "image/freeze", func(dry bool) any {
				return api.FreezeRequest{Ref: args[0], Until: k.until(p), Note: k.note, DryRun: dry}
			})
		},
	}
	k.flags(p, cmd)
	return cmd
}

func (p *program) rollback() *cobra.Command {
	var k keeping
	var to string
	cmd := &cobra.Command{
		Use:   "rollback REF",
		Short: "Freeze a tag to a digest that it had before",
		Args:  takes(1, 1), ValidArgsFunction: p.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.change(cmd.Context(), "image/rollback", func(dry bool) any {
				return api.RollbackRequest{Ref: args[0], To: to, Until: k.until(p), Note: k.note, DryRun: dry}
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "a `digest` of hubcap history, or its beginning; the one that was served before, when empty")
	k.flags(p, cmd)
	return cmd
}

func (p *program) thaw() *cobra.Command {
	return p.tagOrder("thaw", "End a freeze: the tag follows its registry again")
}

func (p *program) adopt() *cobra.Command {
	return p.tagOrder("adopt", "End the cool-down of a tag: it moves now")
}

func (p *program) tagOrder(name, does string) *cobra.Command {
	cmd := &cobra.Command{
		Use: name + " REF", Short: does, Args: takes(1, 1), ValidArgsFunction: p.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.change(cmd.Context(), "image/"+name, func(dry bool) any { return api.TagRequest{Ref: args[0], DryRun: dry} })
		},
	}
	p.withDryRun(cmd)
	return cmd
}

// change changes what a tag means.
func (p *program) change(ctx context.Context, path string, body func(dry bool) any) error {
	b, err := p.find()
	if err != nil {
		return err
	}
	c, ok, err := order[api.TagChange]{path: path, body: body, cost: costOfChange}.carryOut(ctx, p, b)
	if err != nil || !ok {
		return err
	}
	if c.Job != nil {
		if err := p.follow(ctx, b, *c.Job); err != nil || p.detach || p.asJSON {
			return err
		}
		now, err := ask[api.TagHistory](ctx, b, http.MethodGet, "image/history", url.Values{"ref": {c.Tag.Ref}}, nil)
		if err != nil {
			return err
		}
		c.Tag = now.Tag
	}
	if p.asJSON {
		return p.printJSON(c)
	}
	return p.printTag(c.Tag)
}

func costOfChange(c api.TagChange) string {
	text := fmt.Sprintf("%s is %s", c.Tag.Ref, short(c.Tag.Digest.String()))
	if c.Digest != "" && c.Digest != c.Tag.Digest.String() {
		text += " and becomes " + short(c.Digest)
	}
	if c.Cost != nil {
		return text + ". " + fetching(*c.Cost)
	}
	return text + "."
}

func (p *program) printTag(t api.Tag) error {
	hint := ""
	if t.Frozen != nil {
		hint = fmt.Sprintf(" Clients see it from now on; pulls by digest do not change. hubcap thaw %s ends it.", t.Ref)
	}
	_, err := fmt.Fprintln(p.Stdout, plain(fmt.Sprintf("%s is %s: %s.%s", t.Ref, short(t.Digest.String()), p.tagState(t), hint)))
	return err
}
