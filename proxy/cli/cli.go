// Package cli is the commands of hubcap. Those that look at a running hubcap or
// change something in it ask its API and nothing else.
//
// Files: cli.go (the tree of commands, exit codes), local.go (what is done beside a
// hubcap), box.go (how one is found and asked), look.go (its state), traffic.go (its
// clients), act.go (what has a cost), images.go, tags.go, jobs.go, outage.go, bundle.go
// (images over an air gap), layout.go (their files), progress.go, output.go (tables and
// sentences).
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// The exit codes. Scripts rely on them: deploy/docs/commands.md.
const (
	Done       = 0
	Failed     = 1
	Usage      = 2 // the command line is wrong
	InPart     = 3 // done in part, or the answer is no
	NoImage    = 4 // there is no such image
	NoBox      = 5 // no hubcap answers there
	NotAllowed = 6 // the hubcap refuses the token, or the socket this user
)

// Failure is an error with the exit code that it leads to.
type Failure struct {
	Code int
	Err  error
	Told bool // the user has read it already
}

func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap returns what has failed.
func (f *Failure) Unwrap() error { return f.Err }

func failed(code int, format string, args ...any) error {
	return &Failure{Code: code, Err: fmt.Errorf(format, args...)}
}

// told is a failure that what the command printed has shown.
func told(code int, why string) error { //nolint:unparam // where it is called one is to see the code
	return &Failure{Code: code, Err: errors.New(why), Told: true}
}

// Report writes an error of Run unless the user has read it already, and returns
// the exit code.
func Report(w io.Writer, err error) (code int) {
	if err == nil {
		return Done
	}
	f := &Failure{Code: Failed}
	errors.As(err, &f)
	if !f.Told {
		_, _ = fmt.Fprintln(w, "hubcap:", err) // there is no other place to say it
	}
	return f.Code
}

// Options is what the commands need; every field but Now is required.
type Options struct {
	Environ        []string // as of os.Environ
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Version        string
	Now            func() time.Time                // time.Now when nil
	Serve          func(ctx context.Context) error // serves until ctx ends
}

// program is the commands with what they have in common.
type program struct {
	Options
	box    *box   // nil before one is asked
	at     string // --box
	asJSON bool   // --json
	dryRun bool   // --dry-run
	yes    bool   // --yes
	detach bool   // --detach
}

// Run runs the command that args name, without the program's own name.
func Run(ctx context.Context, args []string, o Options) error {
	root := Command(o)
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}

// Command returns the tree of commands.
func Command(o Options) *cobra.Command {
	p := &program{Options: o}
	if p.Now == nil {
		p.Now = time.Now
	}
	root := &cobra.Command{
		Use:   "hubcap",
		Short: "hubcap is a caching pull-through proxy for Docker Hub and every other OCI registry",
		Long: `hubcap is a caching pull-through proxy for Docker Hub and every other OCI registry.
Without a command it serves.`,
		Args:              p.known,
		RunE:              func(cmd *cobra.Command, _ []string) error { return o.Serve(cmd.Context()) },
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},

		SuggestionsMinimumDistance: 2,
	}
	root.SetIn(o.Stdin)
	root.SetOut(o.Stdout)
	root.SetErr(o.Stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if cmd == root && cmd.Flags().NArg() > 0 {
			return p.known(cmd, cmd.Flags().Args())
		}
		return failed(Usage, "%w; %s --help has the flags", err, cmd.CommandPath())
	})
	for _, g := range []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{"look", "To look at a running hubcap:", p.looking()},
		{"act", "To change what it keeps:", p.acting()},
		{"run", "To run hubcap:", p.local()},
	} {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, c := range g.commands {
			c.GroupID = g.id
		}
		root.AddCommand(g.commands...)
	}
	root.SetHelpCommandGroupID("run")
	return root
}

// known refuses a command that there is not.
func (p *program) known(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if near := root.SuggestionsFor(args[0]); len(near) > 0 {
		return failed(Usage, "there is no command %q. Did you mean %s?", args[0], strings.Join(near, " or "))
	}
	return failed(Usage, "there is no command %q; hubcap --help lists them", args[0])
}

// command returns a command that takes from least to most arguments; most is -1 for
// any number. Images complete those that are called REF or GLOB.
func (p *program) command(use, does string, least, most int, run func(ctx context.Context, args []string) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: does, RunE: func(cmd *cobra.Command, args []string) error { return run(cmd.Context(), args) }}
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) < least || most >= 0 && len(args) > most {
			return failed(Usage, "usage: hubcap %s", use)
		}
		return nil
	}
	if strings.Contains(use, "REF") || strings.Contains(use, "GLOB") {
		cmd.ValidArgsFunction = p.completeImages
	}
	return cmd
}
