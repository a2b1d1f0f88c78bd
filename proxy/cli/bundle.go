package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/admin/words"
	"hubcap/proxy/bundle"
	"hubcap/proxy/units"
)

func printHoldings(o *output, h api.Holdings) {
	for _, d := range h.Digests {
		o.line("%s", d)
	}
	if len(h.Digests) == 0 {
		o.line("Nothing is stored yet.")
	}
}

// exporting is what hubcap export is told.
type exporting struct {
	api.ExportRequest
	file, dir, notIn string
	each             bool
}

func (p *program) export() *cobra.Command {
	var x exporting
	cmd := p.command("export REF...", "Write images to a file or directory, for another box or for other programs", 1, -1, func(ctx context.Context, args []string) error {
		x.Refs = args
		if (x.file == "") == (x.dir == "") {
			return failed(Usage, "one of -o FILE and --dir DIR is needed")
		}
		if x.each && x.file == "-" {
			return failed(Usage, "--each writes several files; -o is their directory then")
		}
		return p.exportAll(ctx, x)
	})
	cmd.Long = `Write images as an OCI image layout: a tar, or a directory. What is not held is fetched first.

    hubcap export nginx:1.27 ghcr.io/acme/app:v1 -o images.tar
    hubcap export nginx:1.27 -o - --platform all | ssh berlin hubcap import -
    hubcap export nginx:1.27 --not-in holdings.json -o new.tar`
	f := cmd.Flags()
	f.StringVarP(&x.file, "output", "o", "", "write a tar to this `file`; - for standard output")
	f.StringVar(&x.dir, "dir", "", "write an unpacked layout to this `directory`")
	f.BoolVar(&x.each, "each", false, "an archive or layout for each image, in the directory of -o or --dir")
	f.StringSliceVar(&x.Platforms, "platform", nil, "only these `platforms`, such as linux/amd64, or all; those that are pulled here, when empty")
	f.StringVar(&x.notIn, "not-in", "", "leave out what is in this `file`, written by hubcap holdings --json")
	f.BoolVar(&x.IncludeShared, "include-shared", false, "also images that were pulled with the credentials of the box")
	f.BoolVar(&p.dryRun, "dry-run", false, "say what would happen, and write nothing")
	return cmd
}

// exportAll writes all images that a command names.
func (p *program) exportAll(ctx context.Context, x exporting) error {
	if x.notIn != "" {
		text, err := os.ReadFile(x.notIn)
		if err != nil {
			return err
		}
		var other api.Holdings
		if err := json.Unmarshal(text, &other); err != nil {
			return failed(Usage, "%s is not what hubcap holdings --json writes: %w", x.notIn, err)
		}
		x.NotIn = other.Digests
	}
	x.DryRun = true
	cost, _, err := ask[api.ExportCost](ctx, p, http.MethodPost, "export", nil, x.ExportRequest)
	if err != nil {
		return err
	}
	if err := p.bring(ctx, x, cost); err != nil || p.dryRun {
		return err
	}
	x.DryRun = false
	if !x.each {
		return p.exportTo(ctx, x)
	}
	for _, ref := range x.Refs {
		one := x
		one.Refs = []string{ref}
		if err := p.exportTo(ctx, one); err != nil {
			return err
		}
	}
	return nil
}

// bring says what an export takes, and has what is missing fetched unless that is all.
func (p *program) bring(ctx context.Context, x exporting, cost api.ExportCost) error {
	if p.dryRun && p.asJSON {
		return p.printJSON(cost)
	}
	for _, i := range cost.Estimate.Items {
		if !i.OK {
			return failed(Failed, "%s: %s", plain(i.Name), plain(i.Result))
		}
	}
	aside := *p
	if !p.dryRun {
		aside.Stdout, aside.asJSON, aside.detach = p.Stderr, false, false
	}
	if plan := cost.Plan; plan != nil {
		return aside.say("%s, %s, %s.", units.Count(len(plan.Images), "image"), units.Count(plan.Objects, "object"), units.Bytes(plan.Bytes))
	}
	if err := aside.say("%s.", words.Fetch(words.CostOf(&cost.Estimate))); err != nil || p.dryRun {
		return err
	}
	started, _, err := ask[api.Warmed](ctx, p, http.MethodPost, "warm", nil, api.WarmRequest{Refs: x.Refs, Platforms: x.Platforms})
	if err != nil {
		return err
	}
	return aside.follow(ctx, *started.Job)
}

// exportTo writes one archive or layout.
func (p *program) exportTo(ctx context.Context, x exporting) error {
	resp, err := p.box.send(ctx, http.MethodPost, "export", nil, x.ExportRequest)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	at, ending := x.file, ".tar"
	if x.dir != "" {
		at, ending = x.dir, ""
	}
	if x.each {
		at = filepath.Join(at, fileOf(x.Refs[0])+ending)
	}
	bar := p.newProgress()
	r := newCounted(resp.Body, bar, resp.ContentLength)
	switch {
	case x.dir != "":
		err = writeLayout(at, r)
	case x.file == "-":
		_, err = io.Copy(p.Stdout, r)
	default:
		err = writeFile(at, r)
	}
	bar.end()
	switch {
	case ctx.Err() != nil:
		return failed(Failed, "interrupted")
	case err != nil:
		return failed(Failed, "%s: %w", at, err)
	case x.file == "-":
		return nil
	}
	return printAnswer(p, written{at, x.Refs, r.n}, func(o *output, w written) {
		o.line("%s  %s  %s", w.File, units.Bytes(w.Bytes), strings.Join(w.Refs, " "))
	})
}

// written is a file or directory that an export has made.
type written struct {
	File  string   `json:"file"`
	Refs  []string `json:"refs"`
	Bytes int64    `json:"bytes"`
}

// fileOf returns the name of the file of an image.
func fileOf(ref string) string { return strings.NewReplacer("/", "_", ":", "_", "@", "_").Replace(ref) }

func (p *program) importing() *cobra.Command {
	var in api.ImportQuery
	cmd := p.command("import FILE", "Take in images from a file or directory; - for standard input", 1, 1, func(ctx context.Context, args []string) error {
		in.DryRun = p.dryRun
		return p.importFrom(ctx, args[0], in)
	})
	cmd.Long = `Take in images from an OCI image layout, a tar or a directory, or from an archive of docker save.
Every file is verified. The tags of images that are whole are set at the end.

    hubcap import images.tar
    skopeo copy docker://registry.lan/app:v1 oci-archive:app.tar && hubcap import app.tar --as ghcr.io/acme/app:v1`
	f := cmd.Flags()
	f.StringVar(&in.As, "as", "", "`name` of the one image, or repository of those whose names have no registry")
	f.BoolVar(&in.Partial, "partial", false, "also images that are not whole")
	f.BoolVar(&in.Force, "force", false, "also images that docker save has packed anew, which have another digest than at their registry")
	f.BoolVar(&p.dryRun, "dry-run", false, "read and verify all of it, and keep nothing")
	return cmd
}

// importFrom takes in a file or a directory.
func (p *program) importFrom(ctx context.Context, name string, in api.ImportQuery) error {
	content, total, err := p.openLayout(name)
	if err != nil {
		return failed(Failed, "%w", err)
	}
	defer content.Close()
	query := values(map[string]string{"as": in.As})
	for key, on := range map[string]bool{"partial": in.Partial, "force": in.Force, "dry_run": in.DryRun} {
		query.Set(key, strconv.FormatBool(on))
	}
	bar := p.newProgress()
	got, text, err := ask[api.Imported](ctx, p, http.MethodPost, "import", query, newCounted(content, bar, total))
	bar.end()
	if err == nil {
		err = reply(p, text, got, printImported)
	}
	switch {
	case err != nil:
		return err
	case len(got.Images) == 0:
		return failed(InPart, "there is no image in it")
	case slices.ContainsFunc(got.Images, func(i bundle.Image) bool { return !i.OK }):
		return told(InPart, "some images were not taken")
	}
	return nil
}

func printImported(o *output, got api.Imported) {
	var rows [][]string
	right := 0
	for _, one := range got.Images {
		result := "imported"
		switch {
		case one.OK && !one.Set:
			result = "would be imported"
		case one.Set && !one.OK:
			result = "imported in part: " + one.Why
		case !one.OK:
			result = "not imported: " + one.Why
		}
		if one.OK {
			right++
		}
		rows = append(rows, []string{cmp.Or(one.Ref, one.Name), units.Digest(one.Digest), result})
	}
	o.table(nil, rows)
	for _, one := range got.Bad {
		o.line("%s: %s", one.Digest, one.Why)
	}
	brought := "brought"
	if got.DryRun {
		brought = "would be brought"
	}
	o.line("%d of %s; %s, %s, %s; %d were held", right, units.Count(len(got.Images), "image"), units.Count(got.Objects, "object"), units.Bytes(got.Bytes), brought, got.Held)
}
