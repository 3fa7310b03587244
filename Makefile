# The commands of the project. Each is a program in tools/, with options of its own (--help).
PYTHON ?= python3

help:  ## Show this
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

demo:  ## Deploy examples/blog to a real host, or what has changed since; prints where to look
	@$(PYTHON) tools/demo.py

demo-clean:  ## Remove the demo's host and files
	@$(PYTHON) tools/demo.py clean

test:  ## Tier 1 of the checks, as CI runs it: within 12 minutes
	@$(PYTHON) tools/check.py

test-all:  ## Both tiers: also the long proofs
	@$(PYTHON) tools/check.py --all

lint:  ## Only style, types and Ansible's rules
	@$(PYTHON) tools/check.py lint

unit:  ## Only what needs no host
	@$(PYTHON) tools/check.py unit

molecule:  ## Only the Molecule scenarios
	@$(PYTHON) tools/check.py molecule

host-tests:  ## Only the tests of releases, failures and reboots on real hosts
	@$(PYTHON) tools/check.py hosts

bench:  ## What a deploy costs, as ratios to an empty play; on a machine with nothing else to do
	@tools/bootstrap.sh --lab && .venv/bin/python bench/deploy.py

tls-scan:  ## Scan the TLS of each proxy with testssl.sh, and compare with docs/tls.md
	@$(PYTHON) tools/tls_scan.py

clean: demo-clean  ## Remove everything that was made here
	@$(PYTHON) tools/lab.py down --all
	@rm -rf .ansible .cache .venv tests/output

.DEFAULT_GOAL := help
.PHONY: help demo demo-clean test test-all lint unit molecule host-tests bench tls-scan clean
