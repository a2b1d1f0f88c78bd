package cli

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/admin/words"
	"hubcap/proxy/config"
	"hubcap/proxy/units"
)

// acting returns the commands that change what a hubcap keeps.
func (p *program) acting() []*cobra.Command {
	return p.asking(append(p.tagOrders(),
		p.warm(), p.pin(), p.unpin(), p.purge(), p.verify(), p.evict(), p.schedules(), p.cancel(), p.export(), p.importing(), p.offline())...)
}

// withDryRun gives a command the flags --dry-run and --yes.
func (p *program) withDryRun(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&p.dryRun, "dry-run", false, "say what would happen, and change nothing")
	cmd.Flags().BoolVarP(&p.yes, "yes", "y", false, "do not ask on a terminal whether to go on")
}

// withDetach gives a command the flag --detach.
func (p *program) withDetach(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&p.detach, "detach", "d", false, "print the id of the job and do not wait for it")
}

// order is something that a route does, after a look at what it would do.
type order[T any] struct {
	method string // POST when empty
	path   string
	query  url.Values
	body   func(dryRun bool) any // nil for none: dry_run is then part of the query
	cost   func(T) []string      // what it would do, in parts of a sentence
	done   func(T) []string      // what it has done, where carry is to say so
	list   func(*output, T)      // shows what it would do, if a sentence is too little
}

// give sends the order, and returns what is answered, also as it came.
func (o order[T]) give(ctx context.Context, p *program, dryRun bool) (T, []byte, error) {
	query, body := maps.Clone(o.query), any(nil)
	if o.body != nil {
		body = o.body(dryRun)
	} else {
		query.Set("dry_run", strconv.FormatBool(dryRun))
	}
	return ask[T](ctx, p, cmp.Or(o.method, http.MethodPost), o.path, query, body)
}

// carryOut shows what an order would do and, unless that is all or the user says no,
// gives it. ok reports whether it was given; then answer is what came of it.
func (o order[T]) carryOut(ctx context.Context, p *program) (answer T, ok bool, err error) {
	answer, document, err := o.give(ctx, p, true)
	switch {
	case err != nil:
	case p.dryRun && p.asJSON:
		err = writeJSON(p.Stdout, document)
	case p.dryRun && o.list != nil:
		err = p.print(func(out *output) { o.list(out, answer) })
	case p.dryRun:
		err = p.say("%s", sentence(o.cost(answer)))
	default:
		if err = p.confirm(sentence(o.cost(answer))); err == nil {
			answer, _, err = o.give(ctx, p, false)
			ok = err == nil
		}
	}
	return answer, ok, err
}

// carry carries out an order that is done when it is answered, and says so.
func (o order[T]) carry(ctx context.Context, p *program) (T, error) {
	answer, ok, err := o.carryOut(ctx, p)
	if err == nil && ok {
		err = printAnswer(p, answer, func(out *output, answer T) { out.line("%s", sentence(o.done(answer))) })
	}
	return answer, err
}

// confirm says what is about to happen, and asks on a terminal whether it is to.
func (p *program) confirm(cost string) error {
	_, _ = fmt.Fprintln(p.Stderr, plain(cost))
	if p.yes || !isTerminal(p.Stdin) || !isTerminal(p.Stderr) {
		return nil
	}
	_, _ = fmt.Fprint(p.Stderr, "Go on? [y/N] ")
	answer, _ := bufio.NewReader(p.Stdin).ReadString('\n') // its end is a no
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return failed(Failed, "nothing was changed")
	}
	return nil
}

func (p *program) warm() *cobra.Command {
	var in api.WarmRequest
	var file string
	var every config.Duration
	cmd := p.command("warm REF...", "Fetch images whole, now or again and again", 0, -1, func(ctx context.Context, args []string) (err error) {
		if len(args) == 0 && file == "" {
			return failed(Usage, "usage: hubcap warm REF..., or --from-file")
		}
		if in.Refs, err = p.references(args, file); err != nil {
			return err
		}
		in.EveryS = int64(time.Duration(every) / time.Second)
		return p.fetch(ctx, in)
	})
	cmd.Long = `Fetch images whole, so that clients find them here: what is held already is not fetched again.

    hubcap warm nginx:1.27 ghcr.io/acme/app:v1 --platform linux/amd64
    hubcap warm --from-file images.txt --every 24h`
	cmd.Flags().StringVar(&file, "from-file", "", "also the images of a `file`, a reference a line; - for standard input")
	cmd.Flags().StringSliceVar(&in.Platforms, "platform", nil, "for which `platforms`, such as linux/amd64, or all; those that are pulled here, when empty")
	cmd.Flags().Float64Var(&in.KeepPulls, "keep-pulls", 0, "`share` of a registry's pull limit, 0 to 1, that is left to clients")
	withDuration(cmd, &every, "every", "fetch them again and again, at this interval of at least 10m")
	p.withDryRun(cmd)
	p.withDetach(cmd)
	return cmd
}

// references returns the images of arguments and of a file.
func (p *program) references(args []string, file string) ([]string, error) {
	var text []byte
	var err error
	switch file {
	case "":
	case "-":
		text, err = io.ReadAll(p.Stdin)
	default:
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		args = append(args, strings.Fields(line)...)
	}
	if len(args) == 0 {
		return nil, failed(Usage, "%s names no image", file)
	}
	return args, nil
}

func (p *program) fetch(ctx context.Context, in api.WarmRequest) error {
	made, ok, err := order[api.Warmed]{
		path: "warm",
		body: func(dryRun bool) any { in.DryRun = dryRun; return in },
		cost: func(w api.Warmed) []string {
			for _, i := range w.Estimate.Items {
				if !i.OK {
					return []string{i.Name + ": " + i.Result}
				}
			}
			return []string{words.Fetch(words.CostOf(w.Estimate))}
		},
	}.carryOut(ctx, p)
	switch {
	case err != nil || !ok:
		return err
	case made.Schedule != nil:
		return p.say("%s every %s; hubcap schedules --delete %s ends that.", units.Count(len(in.Refs), "image"), units.Seconds(in.EveryS), made.Schedule.ID)
	}
	return p.follow(ctx, *made.Job)
}

// withDuration gives a command a flag for a duration such as 30m or 7d.
func withDuration(cmd *cobra.Command, d *config.Duration, name, usage string) {
	cmd.Flags().TextVar(d, name, config.Duration(0), usage+", a `duration` such as 30m, 12h or 7d")
	cmd.Flags().Lookup(name).DefValue = "" // none is shown
}

func (p *program) evict() *cobra.Command {
	var bytes config.Bytes
	cmd := p.command("evict --bytes SIZE", "Make room, in the order in which that happens by itself, or list what would go", 0, 0, func(ctx context.Context, _ []string) error {
		if bytes == 0 {
			return failed(Usage, "usage: hubcap evict --bytes SIZE")
		}
		_, err := order[api.Eviction]{
			path: "evict", list: printEviction,
			body: func(dryRun bool) any { return api.EvictRequest{Bytes: int64(bytes), DryRun: dryRun} },
			cost: func(e api.Eviction) []string { return words.Evict(e, "goes", "will") },
			done: func(e api.Eviction) []string {
				return []string{units.Bytes(e.Bytes) + " in " + units.Count(e.Count, "object") + " went"}
			},
		}.carry(ctx, p)
		return err
	})
	cmd.Long = `Make room, in the order in which that happens by itself, or list what would go: with the
images that it belongs to, and how many of them would no longer survive an outage.

    hubcap evict --dry-run --bytes 20GB`
	cmd.Flags().TextVar(&bytes, "bytes", config.Bytes(0), "how much to evict at least, a `size` such as 20GB or 5GiB")
	cmd.Flags().Lookup("bytes").DefValue = "" // none is shown
	p.withDryRun(cmd)
	return cmd
}

// printEviction lists what would be evicted.
func printEviction(out *output, e api.Eviction) {
	var rows [][]string
	for i, o := range e.Objects {
		what := fmt.Sprintf("%s %s", o.Kind, units.Digest(o.Digest))
		if o.Partial {
			what = "unfinished " + what
		}
		if o.Image != "" {
			what += " of " + o.Image
		}
		unused := "unused " + out.Since(o.Used)
		if o.Images > 1 {
			unused += fmt.Sprintf(", %d images", o.Images)
		}
		rows = append(rows, []string{fmt.Sprint(i + 1), units.Bytes(o.Size), what, unused})
	}
	out.table(nil, rows)
	if more := e.Count - len(e.Objects); more > 0 {
		out.line("and %d more", more)
	}
	out.line("%s", sentence(words.Evict(e, "would go", "would")))
}
