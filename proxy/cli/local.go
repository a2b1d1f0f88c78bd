package cli

import (
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/config"
	"hubcap/proxy/doctor"
	"hubcap/proxy/server"
	"hubcap/proxy/setup"
)

// local returns the commands that ask no API.
func (p *program) local() []*cobra.Command {
	serve := &cobra.Command{
		Use:   "serve",
		Short: "Serve, as hubcap without a command does",
		Args:  takes(0, 0),
		RunE:  func(cmd *cobra.Command, _ []string) error { return p.Serve(cmd.Context()) },
	}
	settings := &cobra.Command{
		Use:   "config",
		Short: "Print every variable, its default and its value, and fail where the start would",
		Args:  takes(0, 0),
		RunE:  func(*cobra.Command, []string) error { return p.config() },
	}
	version := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(p.Stdout, p.Version)
			return err
		},
	}
	healthcheck := &cobra.Command{
		Use:   "healthcheck",
		Short: "Exit with 0 when the hubcap of this configuration is ready",
		Args:  takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			c, err := config.Load(p.Environ)
			if err != nil {
				return err
			}
			return server.Healthcheck(c)
		},
	}
	return []*cobra.Command{serve, settings, version, healthcheck, p.doctor(), p.login(), p.setup(), p.completion()}
}

func (p *program) config() error {
	if err := config.Print(p.Stdout, p.Environ); err != nil {
		return err
	}
	c, err := config.Load(p.Environ)
	if err != nil {
		return err
	}
	return server.Check(c)
}

func (p *program) doctor() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check what hubcap needs, before its start and beside a running one, and say what to do",
		Args:  takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return doctor.Run(cmd.Context(), doctor.Options{Environ: p.Environ, Version: p.Version}).Print(p.Stdout, p.asJSON)
		},
	}
	p.withJSON(cmd)
	return cmd
}

// login prints a link that logs a browser in.
func (p *program) login() *cobra.Command {
	var view bool
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Print a link that logs a browser in, once, within five minutes",
		Args:  takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := p.find()
			if err != nil {
				return err
			}
			link, err := ask[api.Login](cmd.Context(), b, http.MethodPost, "login", nil, api.LoginRequest{View: view})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(p.Stdout, plain(link.URL))
			return err
		},
	}
	cmd.Flags().BoolVar(&view, "view", false, "the browser may look and change nothing")
	p.withBox(cmd)
	return cmd
}

func (p *program) setup() *cobra.Command {
	return &cobra.Command{
		Use:   "setup CLIENT [FORM]",
		Short: "Print the configuration of a client, as GET /setup has it",
		Long: `Print the configuration of a client, as GET /setup of the mirror port has it.
With ansible or cloud-init as FORM it is printed for many hosts.`,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			words := [][]string{setup.Names(), {setup.Ansible, setup.CloudInit}}
			if len(args) >= len(words) {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return words[len(args)], cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error { return server.PrintSetup(p.Stdout, p.Environ, args) },
	}
}

// completion prints a script for a shell, as cobra makes it.
func (p *program) completion() *cobra.Command {
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print the script that completes commands in bash, zsh, fish or powershell",
		Long: `Print the script that completes commands and names of images in a shell.

    bash        hubcap completion bash >/etc/bash_completion.d/hubcap
    zsh         hubcap completion zsh >"${fpath[1]}/_hubcap"
    fish        hubcap completion fish >~/.config/fish/completions/hubcap.fish
    powershell  hubcap completion powershell | Out-String | Invoke-Expression`,
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		Args:      takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(p.Stdout, true)
			case "zsh":
				return root.GenZshCompletion(p.Stdout)
			case "fish":
				return root.GenFishCompletion(p.Stdout, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(p.Stdout)
			}
			return failed(Usage, "completion: no such shell; there are: bash, zsh, fish, powershell")
		},
	}
}
