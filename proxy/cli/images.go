package cli

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/admin/words"
	"hubcap/proxy/units"
)

func (p *program) images() *cobra.Command {
	var registry, state, order string
	cmd := p.command("images [GLOB]", "List the images that clients have pulled, and how much of each is held", 0, 1, func(ctx context.Context, args []string) error {
		query := values(map[string]string{"q": strings.Join(args, ""), "registry": registry, "state": state, "sort": order})
		return list(ctx, p, "images", query, printImages)
	})
	cmd.Long = `List the images that clients have pulled, and how much of each is held.

    hubcap images                       the last used first
    hubcap images 'library/*' --sort size
    hubcap images nginx --state gaps    those with nginx in their name that are not held in full`
	cmd.Flags().StringVar(&registry, "registry", "", "only those of a `registry`, such as ghcr.io")
	cmd.Flags().StringVar(&state, "state", "", "only those in a `state`: held, gaps, pinned, frozen or cooling")
	cmd.Flags().StringVar(&order, "sort", "", "in an `order`: used (the default), name, size or pulls")
	return cmd
}

func printImages(o *output, all []api.Image) {
	var rows [][]string
	var held, shared int64
	for _, i := range all {
		held, shared = held+i.Held, shared+i.Shared
		name := strings.TrimPrefix(i.Ref, "docker.io/")
		if len(i.Platforms) == 0 {
			rows = append(rows, []string{name, "-", "0 B", o.Ago(i.Used), fmt.Sprint(i.Pulls), imageState(i, nil)})
		}
		for n := range i.Platforms {
			one := &i.Platforms[n]
			rows = append(rows, []string{name, platformName(one.Platform), heldOf(one.Held, one.Size), o.Ago(one.Used), fmt.Sprint(one.Pulls), imageState(i, one)})
			name = ""
		}
	}
	o.list("There is no such image here. Images appear once clients pull them, or hubcap warm REF has fetched them.",
		[]string{"IMAGE", "PLATFORM", "HELD", "USED", "PULLS", "STATE"}, rows)
	if len(rows) > 0 {
		o.line("%s, %s held, %s of it shared with others", units.Count(len(all), "image"), units.Bytes(held), units.Bytes(shared))
	}
}

// heldOf describes how much is held: 67 MB, or 138 of 151 MB.
func heldOf(held, size int64) string {
	if held == size {
		return units.Bytes(size)
	}
	return units.BytesOf(held, size)
}

func platformName(name string) string {
	if name == "" {
		return "-"
	}
	return strings.TrimPrefix(name, "linux/")
}

// imageState describes a platform of an image in one or two words; of the whole,
// where one is nil.
func imageState(i api.Image, one *api.Platform) string {
	state := string(i.State)
	switch {
	case one == nil && i.Why != "":
		return i.Why
	case one != nil && !one.Wanted:
		return "-"
	case one != nil && len(one.Gaps) > 0:
		state = "gaps"
	case state == "following" && (i.FreshFor == nil || *i.FreshFor > 0):
		state = "fresh"
	case state == "following":
		state = "checked at the next pull"
	case state == "":
		state = "held"
	}
	if i.Pinned {
		state += ", pinned"
	}
	return state
}

func (p *program) image() *cobra.Command {
	return p.command("image REF", "Show an image: its platforms, what it consists of, what is missing", 1, 1, func(ctx context.Context, args []string) (err error) {
		var both struct {
			Image api.Image `json:"image"`
			Tree  api.Node  `json:"tree"`
		}
		query := url.Values{"ref": args}
		if both.Image, err = get[api.Image](ctx, p, "image", query); err != nil {
			return err
		}
		if both.Tree, err = get[api.Node](ctx, p, "image/tree", query); err != nil {
			return err
		}
		if p.asJSON {
			return p.printJSON(both)
		}
		return p.print(func(o *output) { printImage(o, both.Image, both.Tree) })
	})
}

func printImage(o *output, i api.Image, tree api.Node) {
	printImages(o, []api.Image{i})
	for _, one := range i.Platforms {
		for _, g := range one.Gaps {
			if one.Wanted {
				o.line("missing: %s %s of %s, %s", g.Part, units.Digest(g.Digest), platformName(one.Platform), o.Why(g))
			}
		}
	}
	o.table([]string{"CONSISTS OF", "DIGEST", "SIZE", "HELD", "SHARED WITH"}, treeRows(nil, tree, ""))
}

// treeRows adds a row for a manifest or blob, and for all that it names.
func treeRows(rows [][]string, n api.Node, indent string) [][]string {
	size, held, shared := "-", "no", "-"
	if n.Size >= 0 {
		size = units.Bytes(n.Size)
	}
	if n.Held {
		held = "yes"
	}
	if n.Shared > 0 {
		shared = units.Count(n.Shared, "manifest")
	}
	rows = append(rows, []string{strings.TrimSpace(indent + string(n.Kind) + " " + n.Platform), units.Digest(n.Digest), size, held, shared})
	for _, one := range n.Nodes {
		rows = treeRows(rows, one, indent+"· ")
	}
	return rows
}

func printPins(o *output, a api.Pins) {
	heading := []string{"IMAGE", "PLATFORMS", "HELD", "STATE", "BY", "UNTIL", "NOTE"}
	tabulate(o, "Nothing is pinned. hubcap pin REF has an image kept.", heading, a.Pins, func(one api.Pin) []string {
		until, state := "-", string(one.State)
		if !one.Until.IsZero() {
			until = o.Clock(one.Until)
		}
		if one.Why != "" {
			state += ": " + one.Why
		}
		return []string{one.Ref, strings.Join(one.Platforms, " "), heldOf(one.Bytes-one.MissingBytes, one.Bytes), state, one.By, until, one.Note}
	})
	if len(a.Pins) > 0 {
		o.line("%s, %s; %s can be pinned", units.Count(a.Summary.Pins, "pin"), units.Bytes(a.Summary.Bytes), units.Bytes(a.Summary.Limit))
	}
}

func (p *program) pin() *cobra.Command {
	var k keeping
	var platforms []string
	cmd := p.command("pin REF", "Have an image kept, whatever else needs room; what is missing is fetched", 1, 1, func(ctx context.Context, args []string) error {
		until, err := k.end(p)
		if err != nil {
			return err
		}
		_, err = order[api.PinCost]{
			method: http.MethodPut, path: "pins", cost: words.Pin,
			body: func(dry bool) any {
				return api.PinRequest{Ref: args[0], Platforms: platforms, Until: until, Note: k.note, DryRun: dry}
			},
			done: func(c api.PinCost) []string { return []string{c.Ref + " is pinned", "hubcap unpin ends that"} },
		}.carry(ctx, p)
		return err
	})
	k.flags(cmd)
	p.withDryRun(cmd)
	cmd.Flags().StringSliceVar(&platforms, "platform", nil, "which `platforms`, such as linux/amd64, or all; those that are pulled here, when empty")
	return cmd
}

func (p *program) unpin() *cobra.Command {
	cmd := p.command("unpin REF", "Remove a pin: the image may be evicted to make room again", 1, 1, func(ctx context.Context, args []string) error {
		_, err := order[api.Pins]{
			method: http.MethodDelete, path: "pins", query: url.Values{"ref": args}, cost: words.Unpin,
			done: func(a api.Pins) []string {
				return []string{"It is pinned no more", units.Count(len(a.Pins), "pin") + " are left"}
			},
		}.carry(ctx, p)
		return err
	})
	cmd.ValidArgsFunction = p.completePins
	p.withDryRun(cmd)
	return cmd
}

func (p *program) purge() *cobra.Command {
	var force bool
	cmd := p.command("purge GLOB", "Remove images, and what nothing else needs then", 1, 1, func(ctx context.Context, args []string) error {
		result, err := order[api.Purged]{
			path: "purge", cost: words.Purge, done: words.Purge,
			body: func(dry bool) any { in := purgeOf(args[0]); in.DryRun, in.Force = dry, force; return in },
		}.carry(ctx, p)
		if err == nil && !p.dryRun && len(result.Kept) > 0 {
			return told(InPart, "some of it is kept")
		}
		return err
	})
	cmd.Long = `Remove images, and what nothing else needs then. What is pinned or frozen stays, unless --force.

    hubcap purge nginx:1.27                 a tag with its history
    hubcap purge 'ghcr.io/acme/**:pr-*'     tags by a glob
    hubcap purge library/nginx              all tags of a repository
    hubcap purge sha256:5e1c...             a manifest or blob, by its whole digest`
	cmd.Flags().BoolVar(&force, "force", false, "also what is pinned or frozen")
	p.withDryRun(cmd)
	return cmd
}

// purgeOf returns what an argument names: a digest, an image with its tag or
// digest, or repositories.
func purgeOf(arg string) (in api.PurgeRequest) {
	tagged := strings.LastIndexByte(arg, ':') > strings.LastIndexByte(arg, '/')
	switch {
	case strings.HasPrefix(arg, "sha256:"):
		in.Digest = digest.Digest(arg)
	case tagged && !strings.ContainsAny(arg, "*?[{"):
		in.Ref = arg
	default:
		in.Repository = arg
	}
	return in
}

func (p *program) verify() *cobra.Command {
	does := "Have the files of an image hashed, or all files; what is wrong is removed and fetched again when needed"
	cmd := p.command("verify [REF]", does, 0, 1, func(ctx context.Context, args []string) error {
		job, _, err := ask[api.Job](ctx, p, http.MethodPost, "verify", nil, api.VerifyRequest{Ref: strings.Join(args, "")})
		if err != nil {
			return err
		}
		return p.follow(ctx, job)
	})
	p.withDetach(cmd)
	return cmd
}

// completeImages offers the names of images.
func (p *program) completeImages(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	return candidates(p, "images", url.Values{"q": {begun}, "limit": {"1000"}, "sort": {"name"}}, func(a api.Images) (names []string) {
		for _, i := range a.Images {
			names = append(names, i.Ref)
		}
		return names
	})
}

// completePins offers the names of pinned images.
func (p *program) completePins(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return candidates(p, "pins", nil, func(a api.Pins) (names []string) {
		for _, one := range a.Pins {
			if one.By != "file" && one.By != "freeze" && !slices.Contains(names, one.Ref) {
				names = append(names, one.Ref)
			}
		}
		return names
	})
}
