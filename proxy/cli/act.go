package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/config"
)

// acting returns the commands that change what a hubcap keeps.
func (p *program) acting() []*cobra.Command {
	all := []*cobra.Command{p.warm(), p.schedules(), p.cancel(), p.freeze(), p.rollback(), p.thaw(), p.adopt()}
	for _, c := range all {
		p.withBox(c)
		p.withJSON(c)
	}
	return all
}

// withDryRun gives a command the flags --dry-run and --yes.
func (p *program) withDryRun(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&p.dryRun, "dry-run", false, "say what would happen, and change nothing")
	cmd.Flags().BoolVarP(&p.yes, "yes", "y", false, "do not ask on a terminal whether to go on")
}

// withJob gives a command that begins a job the flag --detach.
func (p *program) withJob(cmd *cobra.Command) {
	p.withDryRun(cmd)
	cmd.Flags().BoolVarP(&p.detach, "detach", "d", false, "print the id of the job and do not wait for it")
}

// order is something that a route does, after a look at what it would do.
type order[T any] struct {
	path string
	body func(dryRun bool) any
	cost func(T) string // what it would do, in a sentence
}

// carryOut shows what an order would do and, unless that is all or the user says no,
// gives it. ok reports whether it was given; then answer is what came of it.
func (o order[T]) carryOut(ctx context.Context, p *program, b *box) (answer T, ok bool, err error) {
	text, err := b.document(ctx, http.MethodPost, o.path, nil, o.body(true))
	if err == nil {
		err = b.decode(text, &answer)
	}
	switch {
	case err != nil:
		return answer, false, err
	case p.dryRun && p.asJSON:
		return answer, false, writeJSON(p.Stdout, text)
	case p.dryRun:
		_, err = fmt.Fprintln(p.Stdout, plain(o.cost(answer)))
		return answer, false, err
	}
	if err := p.confirm(o.cost(answer)); err != nil {
		return answer, false, err
	}
	answer, err = ask[T](ctx, b, http.MethodPost, o.path, nil, o.body(false))
	return answer, err == nil, err
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

// fetching describes what an action fetches.
func fetching(c api.Cost) string {
	if c.Objects == 0 && !c.Unknown {
		return "All of it is held: nothing is fetched."
	}
	atLeast := ""
	if c.Unknown {
		atLeast = "at least "
	}
	return fmt.Sprintf("%s, %s%s, %s fetched; that takes %s%s.", count(c.Objects, "object"), atLeast, size(c.Bytes), are(c.Objects), atLeast, count(c.Pulls, "pull"))
}

func are(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

func (p *program) warm() *cobra.Command {
	var in api.WarmRequest
	var file string
	var every config.Duration
	cmd := &cobra.Command{
		Use:   "warm REF...",
		Short: "Fetch images whole, now or again and again",
		Long: `Fetch images whole, so that clients find them here: what is held already is not fetched again.

    hubcap warm nginx:1.27 ghcr.io/acme/app:v1 --platform linux/amd64
    hubcap warm --from-file images.txt --every 24h`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && file == "" {
				return failed(Usage, "usage: hubcap %s, or --from-file", cmd.Use)
			}
			return nil
		},
		ValidArgsFunction: p.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			refs, err := p.references(args, file)
			if err != nil {
				return err
			}
			in.Refs, in.EveryS = refs, int64(time.Duration(every)/time.Second)
			return p.fetch(cmd.Context(), in)
		},
	}
	cmd.Flags().StringVar(&file, "from-file", "", "also the images of a `file`, a reference a line; - for standard input")
	cmd.Flags().StringSliceVar(&in.Platforms, "platform", nil, "for which `platforms`, such as linux/amd64, or all; those that are pulled here, when empty")
	cmd.Flags().Float64Var(&in.KeepPulls, "keep-pulls", 0, "`share` of a registry's pull limit, 0 to 1, that is left to clients")
	withDuration(cmd, &every, "every", "fetch them again and again, at this interval of at least 10m")
	p.withJob(cmd)
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
	b, err := p.find()
	if err != nil {
		return err
	}
	made, ok, err := order[api.Warmed]{
		path: "warm",
		body: func(dryRun bool) any { in.DryRun = dryRun; return in },
		cost: func(w api.Warmed) string {
			e := w.Estimate
			for _, i := range e.Items {
				if !i.OK {
					return fmt.Sprintf("%s: %s", i.Name, i.Result)
				}
			}
			return fetching(api.Cost{Objects: e.Objects, Bytes: e.Bytes, Pulls: e.Pulls, Unknown: e.Unknown})
		},
	}.carryOut(ctx, p, b)
	switch {
	case err != nil || !ok:
		return err
	case made.Schedule != nil:
		_, err = fmt.Fprintf(p.Stdout, "%s every %s; hubcap schedules --delete %s ends that.\n", count(len(in.Refs), "image"), seconds(in.EveryS), made.Schedule.ID)
		return err
	}
	return p.follow(ctx, b, *made.Job)
}

// withDuration gives a command a flag for a duration such as 30m or 7d.
func withDuration(cmd *cobra.Command, d *config.Duration, name, usage string) {
	cmd.Flags().TextVar(d, name, config.Duration(0), usage+", a `duration` such as 30m, 12h or 7d")
	cmd.Flags().Lookup(name).DefValue = "" // none is shown
}
